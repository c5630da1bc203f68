"""What a model folder, a manifest or a link may not do to somebody who only wanted to read it."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from stablequant.foundation.errors import InputError
from stablequant.models import checkpoint
from stablequant.models.checkpoint import read
from stablequant.models.checkpoint.verify import problems
from stablequant.quantization.plan.plan import Plan, read_plan
from stablequant.quantization.search.resume import ResumeState
from stablequant.speech import audio
from stablequant.speech.data_summary import summary


def refused(act, *words):
    with pytest.raises(InputError) as error:
        act()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


# ---- a model folder


def sharded(folder, place):
    """The folder with its weights behind an index that names `place`."""
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    keys = load_file(folder / "shard.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_an_index_of_files_in_the_folder_is_read(quantized_folder, calibrated):
    found = tiny.logits(read.load(str(sharded(quantized_folder, "shard.safetensors"))), tiny.wave(1))
    assert torch.equal(found, tiny.logits(read.load(str(calibrated[0])), tiny.wave(1)))


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "", ".", "nothing"])
def test_an_index_that_leads_elsewhere_is_refused(place, quantized_folder):
    shutil.copy(quantized_folder / "model.safetensors", quantized_folder.parent / "secret.safetensors")
    folder = sharded(quantized_folder, place)
    refused(lambda: read.load(str(folder)), "model.safetensors.index.json: names", "not a file of this folder")


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(index, quantized_folder):
    (quantized_folder / "model.safetensors").unlink()  # with it nobody reads an index
    (quantized_folder / "model.safetensors.index.json").write_text(index)
    refused(lambda: read.load(str(quantized_folder)), "model.safetensors.index.json: not ")


def test_links_to_files_are_followed_as_the_hub_cache_needs(quantized_folder, tmp_path):
    (tmp_path / "blobs").mkdir()
    for path in list(quantized_folder.iterdir()):
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(tmp_path / "blobs" / path.name)
    assert read.load(str(quantized_folder)).scheme == "w8a8"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json", "plan.json"])
@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_pipe_or_device_in_a_model_never_hangs(kind, name, quantized_folder):
    (quantized_folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(quantized_folder / name)
    else:
        (quantized_folder / name).symlink_to("/dev/zero")
    refused(lambda: read.load(str(quantized_folder)), f"{name}: a pipe or device, not a file")
    if name == "config.json":  # without it the folder is nobody's
        refused(lambda: problems(quantized_folder), name)
    else:
        assert any(name in problem for problem in problems(quantized_folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_model_that_asks_for_code_is_refused_and_the_code_not_run(name, float_folder, tmp_path):
    folder = shutil.copytree(float_folder, tmp_path / "model")
    settings = json.loads((folder / name).read_text())
    kinds = ("AutoConfig", "AutoModelForCTC", "AutoTokenizer", "AutoFeatureExtractor")
    (folder / name).write_text(json.dumps(settings | {"auto_map": dict.fromkeys(kinds, "evil.Evil")}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Evil: pass\n")
    refused(lambda: read.load(str(folder)), f"{folder / name}: needs custom code (auto_map)")
    assert not (tmp_path / "run").exists()


class Run:
    def __reduce__(self):
        return os.mkdir, (str(Run.place),)


def test_a_pickle_in_the_place_of_weights_is_not_run(float_folder, tmp_path):
    folder = shutil.copytree(float_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    Run.place = tmp_path / "run"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Run(), protocol=2))
    refused(lambda: read.load(str(folder)), "more than tensors, which is never unpickled")
    assert not Run.place.exists()


# ---- a manifest


def manifest(tmp_path, path):
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"audio_filepath": str(path), "text": "A"}) + "\n")
    return tmp_path / "manifest.jsonl"


@pytest.mark.parametrize("where", ["absolute", "above", "link"])
def test_a_manifest_may_name_any_recording_of_the_user(where, speech, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.wav").symlink_to(speech / "0.wav")
    shutil.copy(speech / "0.wav", tmp_path / "0.wav")
    path = {"absolute": speech / "0.wav", "above": "../0.wav", "link": "link.wav"}[where]
    (utterance,) = audio.listing(manifest(tmp_path / "data", path), require_text=True).utterances
    assert len(audio.load(utterance, 16000)) == 4000


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "link to nothing", "not sound"])
def test_a_manifest_that_names_something_else_is_refused_and_never_hangs(kind, tmp_path):
    path = tmp_path / "a.wav"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "not sound":
        path = Path("/etc/passwd")
    elif kind != "device":
        path.symlink_to(path if kind == "loop" else tmp_path / "nothing")
    found = summary(str(manifest(tmp_path, "/dev/zero" if kind == "device" else path)))["problems"]
    assert len(found) == 1
    assert f"{tmp_path}/manifest.jsonl:1: " in found[0] or "not audio" in found[0]
    assert "root:" not in found[0]  # no word of what the file holds


@pytest.mark.parametrize("data", ["/dev/zero", "pipe.jsonl", "folder.jsonl", "loop.jsonl"])
def test_data_that_is_no_file_is_refused_and_never_hangs(data, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(InputError):
        audio.listing(tmp_path / data, require_text=False)


def test_a_plan_that_is_a_pipe_is_refused_and_never_hangs(tmp_path):
    os.mkfifo(tmp_path / "plan.json")
    refused(lambda: read_plan(tmp_path / "plan.json"), "plan.json: a folder, pipe or device, not a file")


# ---- links where we write


def test_writing_over_a_link_leaves_what_it_leads_to(calibrated, quantized_folder, tmp_path):
    (tmp_path / "link").symlink_to(quantized_folder)
    before = (quantized_folder / "plan.json").read_bytes()
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    choices, weights = tiny.max_plan(recognizer.model)
    about = {"recordings": 1, "seconds": 1.0, "float_passes": 1.0}
    plan = Plan("w8a8", "max", choices, score={"unit": "%"}, calibration=about)
    checkpoint.write(recognizer, plan, weights, tmp_path / "link")
    assert (quantized_folder / "plan.json").read_bytes() == before
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["scores.jsonl", ".fingerprint.12.part.json"])
def test_a_journal_that_is_a_link_is_refused(name, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "q.calibration").mkdir()
    (tmp_path / "q.calibration" / name).symlink_to(tmp_path / "mine")
    refused(lambda: ResumeState(tmp_path / "q.calibration", {}, resume=True), "it contains something else")
    (tmp_path / "other.calibration").symlink_to(tmp_path / "q.calibration")
    refused(lambda: ResumeState(tmp_path / "other.calibration", {}, resume=False), "it contains something else")
    assert (tmp_path / "mine").read_text() == "mine"
