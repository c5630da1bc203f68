"""What people reported of other tools, tried on this one; reports.md beside this has the reports."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC, pipeline

from stablequant.evaluation import peak_memory
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions, EvaluateOptions
from stablequant.models.checkpoint import read
from stablequant.models.tasks import ctc_words
from stablequant.quantization.plan.plan import read_plan
from stablequant.workflows.calibrate import calibrate
from stablequant.workflows.evaluate import evaluate

WEIGHTS = "model.safetensors"
BINARY = "pytorch_model.bin"


def _edit(path, drop=(), **fields):
    settings = {**(json.loads(path.read_text()) if path.exists() else {}), **fields}
    path.write_text(json.dumps({key: value for key, value in settings.items() if key not in drop}))


def _rewrite(folder, change):
    """The weights changed, and written without the metadata of transformers."""
    save_file(
        {name: tensor.contiguous() for name, tensor in change(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS
    )


def _as_bin(folder, weights):
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / BINARY)


# ---- folders that mean the same model


def _names_of_weight_norm_before_torch_2_1(folder):
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def renamed(weights):
        for new, name in old.items():
            weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
        return weights

    _rewrite(folder, renamed)


def _no_metadata(folder):
    _rewrite(folder, lambda weights: weights)


def _heads_of_pretraining(folder):
    _rewrite(folder, lambda w: w | {"quantizer.codevectors": torch.zeros(1, 4, 2), "project_q.bias": torch.zeros(3)})


def _float64(folder):
    _rewrite(folder, lambda weights: {name: tensor.double() for name, tensor in weights.items()})


def _binary(folder):
    _as_bin(folder, load_file(folder / WEIGHTS))


def _binary_shards(folder):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, name in enumerate(weights)}
    for file in set(files.values()):
        torch.save({name: weights[name] for name in weights if files[name] == file}, folder / file)
    (folder / f"{BINARY}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _both_formats(folder):
    torch.save(
        {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}, folder / BINARY
    )


def _checkpoint_of_a_trainer(folder):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"x": torch.zeros(10)}, folder / name)
    (folder / "trainer_state.json").write_text('{"best_metric": NaN, "log_history": [{"loss": Infinity}]}')
    (folder / "runs").mkdir()


def _formats_of_other_frameworks(folder):
    for name in ("flax_model.msgpack", "tf_model.h5", "model.onnx"):
        (folder / name).write_bytes(bytes(100))


def _paths_of_another_machine(folder):
    gone = "/home/somebody/.cache/3a1b"
    _edit(folder / "tokenizer_config.json", special_tokens_map_file=gone, name_or_path=gone, vocab_file=gone)


def _tokens_as_objects(folder):
    def token(content):
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    objects = {name: token(content) for name, content in tokens.items()}
    several = {"additional_special_tokens": 3 * [token("<s>"), token("</s>")]}
    (folder / "special_tokens_map.json").write_text(json.dumps(objects | several))
    _edit(folder / "tokenizer_config.json", ["added_tokens_decoder"], **objects)


def _no_tokenizer_config(folder):
    (folder / "tokenizer_config.json").unlink()


def _extractor_of_2021(folder):
    """No type in it, and a name of its own."""
    for path in folder.glob("p*processor_config.json"):
        path.unlink()
    (folder / "processor_config.json").unlink(missing_ok=True)
    fields = {"do_normalize": True, "feature_size": 1, "padding_side": "right", "padding_value": 0.0}
    _edit(folder / "preprocessor_config.json", return_attention_mask=False, sampling_rate=tiny.RATE, **fields)


def _training_settings(folder):
    _edit(folder / "config.json", layerdrop=1.0, mask_time_prob=1.0, gradient_checkpointing=True, torchscript=True)


def _no_architectures(folder):
    _edit(folder / "config.json", ["architectures", "dtype", "transformers_version"])


SAME = [
    _names_of_weight_norm_before_torch_2_1,
    _no_metadata,
    _heads_of_pretraining,
    _float64,
    _binary,
    _binary_shards,
    _both_formats,
    _checkpoint_of_a_trainer,
    _formats_of_other_frameworks,
    _paths_of_another_machine,
    _tokens_as_objects,
    _no_tokenizer_config,
    _extractor_of_2021,
    _training_settings,
    _no_architectures,
]


@pytest.fixture
def folder(float_folder, tmp_path):
    return shutil.copytree(float_folder, tmp_path / "model")


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__.strip("_"))
def test_the_same_model_in_another_form(change, folder, float_folder, speech, tmp_path):
    expected, waveform = read.load(str(float_folder)), tiny.wave(3, 8000)
    change(folder)
    found = read.load(str(folder))
    assert torch.equal(tiny.logits(found, waveform), tiny.logits(expected, waveform))
    assert found.transcribe(waveform) == expected.transcribe(waveform)
    calibrate(CalibrateOptions(str(folder), str(speech), str(tmp_path / "out"), method="max"))
    quantized = read.load(str(tmp_path / "out"))
    assert tiny.relative(tiny.logits(quantized, waveform), tiny.logits(expected, waveform)) < 0.2
    recognize = pipeline("automatic-speech-recognition", str(tmp_path / "out"))
    assert recognize({"raw": waveform, "sampling_rate": tiny.RATE})["text"] == quantized.transcribe(waveform)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_float32_in_memory(dtype, folder):
    _rewrite(folder, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    _edit(folder / "config.json", ["dtype"], torch_dtype=str(dtype).removeprefix("torch."))
    found = read.load(str(folder))
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}
    assert tiny.logits(found, tiny.wave(0)).isfinite().all()


def test_tokens_beyond_the_head_that_only_training_writes(folder, float_folder):
    """<s> and </s> in added_tokens.json, after the symbols that the head has."""
    kept = [symbol for symbol in tiny.VOCABULARY if symbol not in ("<s>", "</s>")]
    rows = [tiny.VOCABULARY.index(symbol) for symbol in kept]
    _rewrite(folder, lambda w: {name: t[rows] if name.startswith("lm_head") else t for name, t in w.items()})
    (folder / "vocab.json").write_text(json.dumps({symbol: place for place, symbol in enumerate(kept)}))
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": len(kept), "</s>": len(kept) + 1}))
    _edit(folder / "tokenizer_config.json", ["added_tokens_decoder"])
    _edit(folder / "config.json", vocab_size=len(kept))
    found, waveform = read.load(str(folder)), tiny.wave(1, 8000)
    path = [kept.index(symbol) for symbol in ("<pad>", "A", "A", "|", "B", "<pad>", "B")]
    assert ctc_words.decode(ctc_words.best(torch.eye(len(kept))[path]), found.processor.tokenizer) == "A BB"
    expected = tiny.logits(read.load(str(float_folder)), waveform)[:, rows]
    assert tiny.relative(tiny.logits(found, waveform), expected) < 1e-5


# ---- weights that are none


class Code:
    """Pickled, this runs when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_code_in_a_pickle_is_not_run(folder, tmp_path):
    _as_bin(folder, {"x": Code(tmp_path / "ran")})
    with pytest.raises(InputError, match=str(folder)):
        read.load(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [WEIGHTS, BINARY])
def test_a_pointer_of_git_lfs_in_the_place_of_weights(name, folder):
    (folder / WEIGHTS).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 377611120\n")
    with pytest.raises(InputError, match=str(folder)):
        read.load(str(folder))


def test_a_whole_module_in_the_place_of_weights(folder):
    _as_bin(folder, torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=str(folder)):
        read.load(str(folder))


def test_a_shard_that_is_not_there_is_named(folder):
    _binary_shards(folder)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(InputError, match="00002-of-00002"):
        read.load(str(folder))


# ---- quantizing what is empty


def _dead(weights):
    weights["wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight"][:7] = 0
    weights["wav2vec2.encoder.layers.1.attention.q_proj.weight"][:] = 0
    weights["wav2vec2.feature_extractor.conv_layers.3.conv.weight"][:3] = 0
    return weights


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w2a8"])
def test_channels_of_zeros(scheme, folder, speech, tmp_path):
    _rewrite(folder, _dead)
    calibrate(CalibrateOptions(str(folder), str(speech), str(tmp_path / "out"), scheme=scheme, method="max"))
    found = read.load(str(tmp_path / "out"))
    assert tiny.logits(found, tiny.wave(0)).isfinite().all()


def test_a_silent_recording_among_others_changes_no_range(folder, speech, tmp_path):
    with_silence = shutil.copytree(speech, tmp_path / "speech")
    soundfile.write(with_silence / "silence.wav", np.zeros(8000, np.float32), tiny.RATE)
    for data, out in ((speech, "without"), (with_silence, "with")):
        calibrate(CalibrateOptions(str(folder), str(data), str(tmp_path / out), method="max"))
    plans = [json.loads((tmp_path / out / "plan.json").read_text()) for out in ("without", "with")]
    assert [plan["calibration"]["silent"] for plan in plans] == [0, 1]
    first, second = (tiny.logits(read.load(str(tmp_path / out)), tiny.wave(0)) for out in ("without", "with"))
    assert tiny.relative(second, first) < 0.2


def test_one_recording_is_enough(folder, speech, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(speech / "0.wav", tmp_path / "one")
    calibrate(CalibrateOptions(str(folder), str(tmp_path / "one"), str(tmp_path / "out")))
    assert tiny.logits(read.load(str(tmp_path / "out")), tiny.wave(0)).isfinite().all()


# ---- references


def _manifest(tmp_path, speech, texts):
    lines = ({"audio_filepath": str(speech / f"{n}.wav"), "text": text} for n, text in enumerate(texts))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path / "m.jsonl")


@pytest.fixture
def no_peak(monkeypatch):
    """Without the process that measures the memory."""
    monkeypatch.setattr(peak_memory, "peak_rss_bytes", lambda *_: 1)


@pytest.mark.usefixtures("no_peak")
def test_empty_references_cost_what_is_heard(float_folder, speech, tmp_path):
    recognizer = read.load(str(float_folder))
    data = _manifest(tmp_path, speech, ["", "A B", "  "])
    heard = [recognizer.transcribe(soundfile.read(speech / f"{n}.wav", dtype="float32")[0]) for n in (0, 2)]
    result = evaluate(EvaluateOptions(str(float_folder), data))
    assert result.data.words == 2
    assert result.model.insertions >= sum(len(text.split()) for text in heard)


@pytest.mark.usefixtures("no_peak")
@pytest.mark.parametrize("text", [None, 12, float("nan"), ["A"]])
def test_a_reference_that_is_no_text(text, float_folder, speech, tmp_path):
    data = _manifest(tmp_path, speech, ["A B", text])
    with pytest.raises(InputError, match=r"m\.jsonl:2: "):
        evaluate(EvaluateOptions(str(float_folder), data))
    result = evaluate(EvaluateOptions(str(float_folder), data, skip_bad=True))
    assert (result.data.utterances, result.data.skipped_bad) == (1, 1)


# ---- places and environments


def test_a_model_in_the_folder_of_its_recordings_may_be_made_again(folder, speech, tmp_path):
    data = shutil.copytree(speech, tmp_path / "data")
    first = calibrate(CalibrateOptions(str(folder), str(data), str(data / "out"), method="max"))
    again = calibrate(CalibrateOptions(str(folder), str(data), str(data / "out"), method="max"))
    assert again["sites"] == first["sites"]
    assert sorted(path.name for path in data.iterdir()) == sorted([*(path.name for path in speech.iterdir()), "out"])


def _recordings_heard(shell, model, data):
    heard = shell("transcribe", model, data, "--json", text=False)
    assert heard.returncode == 0, heard.stderr
    return [json.loads(line)["audio_filepath"] for line in heard.stdout.splitlines()]


def test_paths_with_signs_that_shells_and_formats_read(float_folder, speech, tmp_path, shell):
    place = tmp_path / "a b [c] {d} 'e' %s $HOME \u00fc ~"
    folder, data = shutil.copytree(float_folder, place / "model"), shutil.copytree(speech, place / "data")
    calibrate(CalibrateOptions(str(folder), str(data), str(place / "out"), method="max"))
    AutoModelForCTC.from_pretrained(place / "out")
    assert _recordings_heard(shell, place / "out", data) == [str(path) for path in sorted(data.glob("*.wav"))]


def test_recordings_in_a_folder_whose_name_is_no_text(float_folder, speech, tmp_path, shell):
    """A name in Latin-1, as old archives have them: half characters in every JSON, and nothing lost."""
    data = shutil.copytree(speech, tmp_path / os.fsdecode(b"caf\xe9"))
    calibrate(CalibrateOptions(str(float_folder), str(data), str(tmp_path / "out"), method="max"))
    assert read_plan(tmp_path / "out").calibration["data"] == str(data)
    assert _recordings_heard(shell, tmp_path / "out", data) == [str(path) for path in sorted(data.glob("*.wav"))]


HOSTILE = {
    "LC_ALL": "POSIX",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "HOME": "/nonexistent",
    "HF_HOME": "/nonexistent/cache",
    "COLUMNS": "0",
    "TERM": "dumb",
    "OMP_NUM_THREADS": "many",
    "PYTHONWARNINGS": "error",
    "CUDA_VISIBLE_DEVICES": "9",
    "TRANSFORMERS_VERBOSITY": "nonsense",
}


def test_an_environment_that_helps_nowhere(float_folder, speech, tmp_path):
    """No UTF-8, no home, no cache, no terminal, no threads, and a text that ASCII has not."""
    folder = shutil.copytree(float_folder, tmp_path / "model")
    symbols = {symbol: place for place, symbol in enumerate("Ä" if s == "A" else s for s in tiny.VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(symbols, ensure_ascii=False), encoding="utf-8")
    _edit(folder / "tokenizer_config.json", ["added_tokens_decoder"])
    expected = read.load(str(folder)).transcribe(soundfile.read(speech / "3.wav", dtype="float32")[0])
    assert "Ä" in expected
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **HOSTILE}
    done = tiny.sfm_quant("transcribe", folder, speech / "3.wav", "--json", env=environment, cwd=Path("/"), text=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == expected
