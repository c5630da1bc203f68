"""A quantized folder as it is written, read back by transformers, and damaged in every way that we know of."""

import copy
import errno
import importlib
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from stablequant.engines import onednn
from stablequant.engines.base import Lowered
from stablequant.foundation import files
from stablequant.foundation.errors import InputError
from stablequant.models import checkpoint
from stablequant.models.checkpoint import read, transformers_hook
from stablequant.models.checkpoint.card import model_card
from stablequant.models.families.base import families
from stablequant.quantization.plan.plan import Plan, read_plan

writing = importlib.import_module("stablequant.models.checkpoint.write")  # the package has a function of that name
WAVE = torch.from_numpy(tiny.wave(7))[None]
FILES = ("README.md", "config.json", "model.safetensors", "plan.json")


def plan_for(model, bits=(8, 8)):
    choices, weights = tiny.max_plan(model, bits, waves=[tiny.wave(0)])
    about = {"recordings": 1, "seconds": 1.0, "float_passes": 1.0}
    return Plan(f"w{bits[0]}a{bits[1]}", "max", choices, score={"unit": "%"}, calibration=about), weights


def written(folder, family="wav2vec2", form="base", bits=(8, 8)):
    """(the integer model in memory, the folder that it was written to)"""
    folder.mkdir(exist_ok=True)
    recognizer = tiny.recognizer(family, form, tmp_path=folder)
    plan, weights = plan_for(recognizer.model, bits)
    checkpoint.write(recognizer, plan, weights, folder / "q")
    return onednn.lower(writing.quantized_model(recognizer.model, plan, weights)).model.eval(), folder / "q"


def logits(model, x=WAVE):
    with torch.inference_mode():
        return model(x).logits


# ---- written and read


@pytest.mark.parametrize(
    ("family", "form", "bits"),
    [*((*each, (8, 8)) for each in tiny.MODELS), *((family, "base", (6, 6)) for family in tiny.CLASSES)]
    + [("wav2vec2", form, (bits, 8)) for form in ("base", "large") for bits in (4, 3, 2)],
    ids=lambda each: each if isinstance(each, str) else f"w{each[0]}a{each[1]}",
)
def test_from_pretrained_gives_the_model_in_memory_bit_for_bit(family, form, bits, tmp_path):
    expected, folder = written(tmp_path, family, form, bits)
    model = AutoModelForCTC.from_pretrained(folder)
    assert torch.equal(logits(model), logits(expected))
    assert tiny.integer_sites(model) == tiny.integer_sites(expected)
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


CASTS = {
    "to dtype": lambda m: m.to(torch.bfloat16),
    "to dtype by name": lambda m: m.to(dtype=torch.float16),
    "bfloat16": lambda m: m.bfloat16(),
    "half": lambda m: m.half(),
    "double": lambda m: m.double(),
    "inside another module": lambda m: torch.nn.Sequential(m).to(torch.bfloat16),
    "a part": lambda m: m.base_model.bfloat16(),
    "a layer": lambda m: m.base_model.encoder.layers.half(),
    "a site": lambda m: m.base_model.encoder.layers[0].get_submodule(FEED_FORWARD[m.config.model_type]).half(),
    "another device": lambda m: m.to("meta"),
}
FEED_FORWARD = {"wav2vec2": "feed_forward.output_dense", "whisper": "fc2"}
LOADED = pytest.mark.parametrize(("family", "form"), [("wav2vec2", "base"), ("whisper", "english")])


def loaded(family, form, tmp_path):
    auto = AutoModelForSpeechSeq2Seq if family == "whisper" else AutoModelForCTC
    return auto.from_pretrained(written(tmp_path, family, form)[1])


@LOADED
def test_a_cast_is_refused_at_once(family, form, tmp_path):
    model = loaded(family, form, tmp_path)
    expected, state = tiny.forward(model, tiny.wave(7)), copy.deepcopy(model.state_dict())
    for name, cast in CASTS.items():
        with pytest.raises(
            ValueError, match=r"not supported for quantized|a quantized model (has its dtypes|runs on)"
        ):
            cast(model)
        for key, tensor in model.state_dict().items():
            assert tensor.dtype == state[key].dtype, f"{key} was changed by {name}"
    assert torch.equal(tiny.forward(model.to(torch.float32).cpu(), tiny.wave(7)), expected), "what changes nothing"


@LOADED
def test_a_copy_of_a_loaded_model_is_one_of_its_own(family, form, tmp_path):
    model = loaded(family, form, tmp_path)
    with torch.inference_mode():
        expected = tiny.forward(model, tiny.wave(7))
        twin = copy.deepcopy(model)
        assert torch.equal(tiny.forward(twin, tiny.wave(7)), expected)
        for site in twin.modules():
            if isinstance(site, onednn.IntegerModule):
                site.codes.zero_()
                site.prepare()
        assert not torch.equal(tiny.forward(twin, tiny.wave(7)), expected)
        assert torch.equal(tiny.forward(model, tiny.wave(7)), expected)
    with pytest.raises(ValueError, match="cannot be cast"):
        twin.bfloat16()


@LOADED
def test_a_loaded_model_is_not_pickled(family, form, tmp_path):
    """Its parts run by methods of the engine, which a pickle would lose: that must not show when it is read."""
    model = loaded(family, form, tmp_path)
    for write in (pickle.dumps, lambda model: torch.save(model, tmp_path / "m.pt")):
        with pytest.raises(
            TypeError, match="cannot be pickled; write it with save_pretrained, and read it with from_"
        ):
            write(model)


def test_models_load_gives_the_same(calibrated):
    recognizer = read.load(str(calibrated[0]))
    assert recognizer.scheme == "w8a8"
    assert recognizer.sites["integer"] == len(tiny.integer_sites(recognizer.model)) == 21
    assert sum(recognizer.sites.values()) == len(read_plan(calibrated[0]).sites), "counted as the plan counts them"
    model = AutoModelForCTC.from_pretrained(calibrated[0])
    assert torch.equal(
        tiny.logits(recognizer, tiny.wave(7)), logits(model, recognizer.inputs(tiny.wave(7))["input_values"])[0]
    )


def test_the_integer_model_is_near_the_float_one(calibrated, float_folder):
    quantized, exact = (tiny.logits(read.load(str(each)), tiny.wave(7)) for each in (calibrated[0], float_folder))
    assert 0 < tiny.relative(quantized, exact) < 0.2


def test_the_extractor_is_fused_after_loading(calibrated):
    model = AutoModelForCTC.from_pretrained(calibrated[0])
    assert "forward" in vars(model.wav2vec2.feature_extractor)


def test_a_load_prepares_and_lowers_once(calibrated, monkeypatch):
    family, calls = families()["wav2vec2"], []
    for owner, name in ((family, "prepare"), (transformers_hook.ENGINE, "lower")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name), calls))
    read.load(str(calibrated[0]))
    assert calls == ["prepare", "lower"]


def counted(function, calls):
    return lambda *arguments: calls.append(function.__name__) or function(*arguments)


def test_the_notices_are_the_reasons_of_the_engine(calibrated, monkeypatch):
    slow = {"encoder.layers.0": "the activation is not GELU"}
    monkeypatch.setattr(transformers_hook.ENGINE, "lower", lambda model: Lowered(model, slow))
    recognizer = read.load(str(calibrated[0]))
    assert recognizer.sites["integer"] == 0
    assert (
        "encoder.layers.0 runs module by module, which is slower, because the activation is not GELU"
        in recognizer.notices[0]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "auto"], ids=str)
def test_another_dtype_gives_the_same_integer_model(calibrated, dtype):
    model = AutoModelForCTC.from_pretrained(calibrated[0], dtype=dtype)
    assert torch.equal(logits(model), logits(AutoModelForCTC.from_pretrained(calibrated[0])))


def test_a_loaded_model_answers_with_gradients_on_and_has_none(calibrated):
    model = AutoModelForCTC.from_pretrained(calibrated[0])
    with torch.enable_grad():
        found = model(WAVE).logits
    assert torch.equal(found.detach(), logits(model))


def test_the_pipeline_of_transformers_transcribes(calibrated):
    recognise = transformers.pipeline("automatic-speech-recognition", str(calibrated[0]))
    text = recognise(tiny.wave(7))["text"]
    assert text == read.load(str(calibrated[0])).transcribe(tiny.wave(7))
    assert tiny.integer_sites(recognise.model)


def test_codes_are_never_under_a_name_that_a_float_model_reads(calibrated):
    stored = load_file(calibrated[0] / "model.safetensors")
    sites = json.loads((calibrated[0] / "config.json").read_text())["quantization_config"]["sites"]
    assert len(sites) == 21
    for name in sites:
        keys = {key.removeprefix(name + ".") for key in stored if key.startswith(name + ".")}
        assert keys == {"codes", "scales", "input_scale", "input_zero_point", "bias"}
        assert stored[f"{name}.codes"].dtype == torch.int8


def test_without_stablequant_it_does_not_load_as_a_float_model(calibrated, float_folder):
    """In a process without `import stablequant`: an error, or a model of noise after a report of missing weights."""
    code = f"""
import torch
from transformers import AutoModelForCTC
exact = AutoModelForCTC.from_pretrained({str(float_folder)!r}).eval()
loaded = AutoModelForCTC.from_pretrained({str(calibrated[0])!r}).eval()
x = torch.sin(torch.arange(4000.0))[None]
with torch.no_grad():
    a, b = exact(x).logits, loaded(x).logits
print("relative error", float((a - b).norm() / a.norm()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        assert not float(done.stdout.split()[-1]) < 0.5  # it may be NaN
        assert "MISSING" in done.stderr
        assert "codes" in done.stderr
    else:
        assert "stablequant" in done.stderr


# ---- damaged


def damage(folder, change):
    """Rewrite the weights of a quantized folder."""
    stored = load_file(folder / "model.safetensors")
    change(stored)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return folder


def refused(folder, *words):
    for load in (AutoModelForCTC.from_pretrained, lambda path: read.load(str(path))):
        with pytest.raises((InputError, RuntimeError)) as error:
            load(folder)
        for word in words:
            assert word in str(error.value)
    assert isinstance(error.value, InputError)  # the one that `sfm-quant` prints
    assert "\n" not in str(error.value)


SITE = "wav2vec2.encoder.layers.0.attention.q_proj"


@pytest.mark.parametrize("key", ["codes", "scales", "input_scale", "input_zero_point", "bias"])
def test_a_missing_key_is_an_error(quantized_folder, key):
    refused(damage(quantized_folder, lambda stored: stored.pop(f"{SITE}.{key}")), f"misses '{SITE}.{key}'")


def test_a_missing_key_of_the_float_rest_is_an_error(quantized_folder):
    key = "wav2vec2.encoder.layer_norm.weight"
    refused(damage(quantized_folder, lambda stored: stored.pop(key)), f"misses '{key}'")


def test_an_unexpected_key_is_an_error(quantized_folder):
    change = lambda stored: stored.update({f"{SITE}.weight": torch.zeros(32, 32)})  # noqa: E731
    refused(damage(quantized_folder, change), f"has an unexpected '{SITE}.weight'")


def test_a_renamed_key_is_an_error(quantized_folder):
    change = lambda stored: stored.update({f"{SITE}.code": stored.pop(f"{SITE}.codes")})  # noqa: E731
    refused(damage(quantized_folder, change), f"misses '{SITE}.codes'")


def test_codes_of_another_shape_are_an_error(quantized_folder):
    refused(damage(quantized_folder, lambda s: s.update({f"{SITE}.codes": torch.zeros(32, 31, dtype=torch.int8)})))


@pytest.mark.parametrize(
    ("key", "dtype"),
    [("codes", torch.float32), ("codes", torch.uint8), ("scales", torch.float16), ("input_zero_point", torch.int32)],
)
def test_a_tensor_of_another_type_is_an_error(quantized_folder, key, dtype):
    damage(quantized_folder, lambda stored: stored.update({f"{SITE}.{key}": stored[f"{SITE}.{key}"].to(dtype)}))
    refused(quantized_folder, f"the wrong type for '{SITE}.{key}'")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_weights_that_are_cut_short_are_an_error(quantized_folder, share):
    path = quantized_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(quantized_folder, "model.safetensors: cut short or damaged")


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


EDITS = {
    "another format": (lambda q: q.update(format_version=99), "format 99"),
    "no scheme": (lambda q: q.pop("scheme"), "scheme"),
    "no sites": (lambda q: q.pop("sites"), "sites"),
    "sites that are a list": (lambda q: q.update(sites=["lm_head"]), "sites"),
    "bits that are a word": (lambda q: q["sites"].update(lm_head="many"), "lm_head"),
    "too many bits": (lambda q: q["sites"].update(lm_head="w8a16"), "lm_head"),
    "a weight format that is none": (lambda q: q["sites"].update(lm_head="w8g64a8"), "w8g64"),
    "packed where the file has int8": (lambda q: q["sites"].update(lm_head="w4g64za8"), "lm_head"),
    "a site that is not there": (lambda q: q["sites"].update({"lm_foot": "w8a8"}), "lm_foot"),
    "a site that is no matrix": (lambda q: q["sites"].update({"wav2vec2.encoder.layer_norm": "w8a8"}), "layer_norm"),
    "a site left out": (lambda q: q["sites"].pop("lm_head"), "lm_head.weight"),
}


@pytest.mark.parametrize("change", EDITS)
def test_a_config_that_does_not_fit_is_an_error(quantized_folder, change):
    edit(quantized_folder, EDITS[change][0])
    with pytest.raises(InputError) as error:
        read.load(str(quantized_folder))
    assert EDITS[change][1] in str(error.value)
    assert "\n" not in str(error.value)


# ---- where it may be written


@pytest.mark.parametrize("name", ["new", "new/below", "empty"])
def test_a_new_or_empty_folder_will_do(tmp_path, name):
    (tmp_path / "empty").mkdir()
    checkpoint.check_destination(str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_folder_of_something_else_is_refused(tmp_path, float_folder):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, float_folder):
        with pytest.raises(InputError, match="contains something other than a stablequant model"):
            checkpoint.check_destination(str(folder))


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"a file; choose a folder|is not writable"):
            checkpoint.check_destination(str(out))


@pytest.mark.parametrize("out", [".", "..", "/", ""])
def test_the_current_folder_is_refused(tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError):
        checkpoint.check_destination(out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="is not writable"):
        checkpoint.check_destination(str(tmp_path / "new"))
    tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which even root makes none")
def test_a_place_that_only_looks_writable_is_refused():
    with pytest.raises(InputError, match="/proc/new: /proc is not writable"):
        checkpoint.check_destination("/proc/new")


def test_a_model_of_ours_is_replaced_whole(tmp_path, quantized_folder):
    (quantized_folder / "left over").write_text("")
    checkpoint.check_destination(str(quantized_folder))
    recognizer = tiny.recognizer("wav2vec2", "large", tmp_path=tmp_path)
    plan, weights = plan_for(recognizer.model)
    checkpoint.write(recognizer, plan, weights, quantized_folder)
    assert not (quantized_folder / "left over").exists()
    assert (quantized_folder / "plan.json").read_text() == plan.to_json()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["w8a8"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_new_files(tmp_path, umask):
    before = os.umask(umask)
    try:
        _, folder = written(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    assert {path.name for path in folder.iterdir()} >= set(FILES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~umask}


def test_writing_leaves_the_float_model_as_it_was(tmp_path):
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    plan, weights = plan_for(recognizer.model)
    expected, hashed = logits(recognizer.model), writing.weights_hash(recognizer.model)
    config = recognizer.model.config.to_dict()
    checkpoint.write(recognizer, plan, weights, tmp_path / "q")
    assert torch.equal(logits(recognizer.model), expected)
    assert writing.weights_hash(recognizer.model) == hashed
    assert recognizer.model.config.to_dict() == config
    assert not tiny.integer_sites(recognizer.model)


def test_the_hash_of_weights_knows_names_and_every_bit():
    linear = torch.nn.Linear(3, 2)
    before = writing.weights_hash(linear)
    assert writing.weights_hash(torch.nn.Sequential(linear)) != before
    with torch.no_grad():
        linear.weight[1, 2] = torch.nextafter(linear.weight[1, 2], torch.tensor(9.0))
    assert writing.weights_hash(linear) != before


# ---- interrupted in the middle


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_):
    raise KeyboardInterrupt


BROKEN = [
    (writing, "model_card", full_disk),
    (writing, "model_card", interrupted),
    (files, "swap", full_disk),
    (transformers.PreTrainedModel, "save_pretrained", full_disk),
]


@pytest.mark.parametrize("older", [True, False], ids=["an older model there", "nothing there"])
@pytest.mark.parametrize(("target", "name", "fault"), BROKEN, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_fault_while_writing_leaves_everything_as_it_was(
    target, name, fault, older, tmp_path, calibrated, monkeypatch
):
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    plan, weights = plan_for(recognizer.model)
    place = tmp_path / "place"
    place.mkdir()
    if older:
        shutil.copytree(calibrated[0], place / "q")
    monkeypatch.setattr(target, name, fault)
    with pytest.raises((OSError, KeyboardInterrupt)):
        checkpoint.write(recognizer, plan, weights, place / "q")
    assert [path.name for path in place.iterdir()] == (["q"] if older else [])
    if older:
        for file in (path for path in calibrated[0].rglob("*") if path.is_file()):
            assert (place / "q" / file.relative_to(calibrated[0])).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("fault", [OSError("busy"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_fault_between_the_renames_puts_the_older_model_back(at, fault, tmp_path, quantized_folder, monkeypatch):
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    plan, weights = plan_for(recognizer.model)
    expected = (quantized_folder / "plan.json").read_bytes()
    rename, calls = Path.rename, []

    def faulty(path, target):
        calls.append(path)
        if len(calls) == at + 1:
            raise fault
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", faulty)
    with pytest.raises(type(fault)):
        checkpoint.write(recognizer, plan, weights, quantized_folder)
    assert (quantized_folder / "plan.json").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["w8a8"]


# ---- the model card


def test_the_card_tells_what_was_done(calibrated, float_folder):
    card = (calibrated[0] / "README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert "pipeline_tag: automatic-speech-recognition" in head
    assert "base_model" not in head, "a folder of this machine is no model of the hub"
    assert f"from `{float_folder.name}`" in body
    assert "| sites on integer grids | 21 of 22 |" in body
    assert "| calibration | 4 recordings, 1 s of audio |" in body
    assert f"| weights on disk | {(calibrated[0] / 'model.safetensors').stat().st_size:,} bytes |" in body


CARDS = {  # path as it was given, commit: the float model in the text, in the head, and as a baseline
    "a folder": ("/home/me/models/base", None, "base", None, "FLOAT"),
    "the folder that one is in": (".", None, Path.cwd().name, None, "FLOAT"),
    "a model of the hub": ("owner/name", "c0ffee", "owner/name", "owner/name", "owner/name@c0ffee"),
    "a branch of one": ("owner/name@dev", "c0ffee", "owner/name@dev", "owner/name", "owner/name@c0ffee"),
}


@pytest.mark.parametrize(("path", "commit", "base", "head", "baseline"), CARDS.values(), ids=CARDS)
def test_the_card_names_no_folder_of_this_machine(path, commit, base, head, baseline, tmp_path):
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    remark = f"{path}: has a language model (5.arpa)"
    told = replace(recognizer, path=path, revision=commit, remarks=(remark,), target_lang=None)
    plan, _ = plan_for(recognizer.model)
    card = model_card(plan, told, tmp_path, "q")
    assert f"`sfm-quant eval q --data DATA --baseline {baseline}`" in card
    assert f"\nMade by stablequant (`sfm-quant calibrate --method max`) from `{base}`.\n" in card
    assert (f"base_model: {head}\n" in card) == ("base_model" in card) == (head is not None)
    assert f"\n{base}: has a language model (5.arpa).\n" in card
    assert "/home/me" not in card
    assert ("where this was made, it was named" in card) == (commit is None)
