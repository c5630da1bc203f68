"""Training of tiny models, through the library and the real command."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import tiny
import torch
from transformers import AutoModelForCTC

from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions, TuneOptions
from stablequant.models.checkpoint import read
from stablequant.models.checkpoint.stored import stored_weights
from stablequant.models.checkpoint.verify import problems
from stablequant.quantization.plan.plan import read_plan
from stablequant.quantization.training import end_to_end, layerwise, stages
from stablequant.speech import audio
from stablequant.workflows import tune as tune_module
from stablequant.workflows.calibrate import calibrate
from stablequant.workflows.tune import tune

FILES = ("plan.json", "model.safetensors", "evidence/training.jsonl", "evidence/histograms.json")


def options(model, data, out, **changes):
    usual = {"scheme": "w3a8", "steps": 12, "layer_steps": 10, "group_size": 32}
    return TuneOptions(model=str(model), data=str(data), out=str(out), **(usual | changes))


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Twelve recordings of noise with transcripts."""
    folder = tmp_path_factory.mktemp("train")
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", tiny.wave(number + 20, 5000 + 300 * number), tiny.RATE)
        (folder / f"{number}.txt").write_text("A B C"[: 1 + 2 * (number % 3)])
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, float_folder, train):
    """(folder, tune JSON); not to be changed."""
    out = tmp_path_factory.mktemp("tuned") / "w3"
    return out, tune(options(float_folder, train, out))


def test_the_result_is_a_quantized_model_like_any_other(tuned, float_folder):
    out, result = tuned
    json.dumps(result, allow_nan=False)
    assert problems(out) == []
    assert sorted(each.name for each in out.parent.iterdir()) == ["w3"], "nothing is left beside"
    loaded = read.load(str(out))
    assert loaded.scheme == "w3a8"
    assert loaded.sites["integer"] == sum("reason" not in site for site in result["sites"])
    assert result["bytes_after"] < result["bytes_before"]
    made = read_plan(out)
    assert made.average_bits() == pytest.approx(result["average_bits"], abs=1e-4)
    assert made.calibration["training"]["recordings"] + made.calibration["training"]["development"] == 12
    assert len(made.calibration["audio_sha256"]) == 12, "eval warns of all recordings that were trained on"
    hypothesis = AutoModelForCTC.from_pretrained(out)(torch.from_numpy(tiny.wave(3))[None]).logits
    assert hypothesis.isfinite().all()


def test_training_makes_it_better_where_nothing_was_trained(tuned, float_folder, train, tmp_path):
    _out, result = tuned
    checks = [each for each in result["records"] if each["stage"] == "end to end"]
    layers = [each for each in result["records"] if each["stage"] == "layer by layer"]
    assert checks[0]["step"] == 0
    assert 0 < checks[-1]["step"] <= 12
    assert result["score"]["whole_model"] == pytest.approx(min(each["score"] for each in checks), abs=1e-3)
    assert all(each["after"] <= each["before"] for each in layers)
    assert any(each["after"] < each["before"] for each in layers)
    plain = calibrate(
        CalibrateOptions(
            str(float_folder), str(train), str(tmp_path / "q"), scheme="w3a8", method="mse", group_size=32
        )
    )
    assert result["score"]["whole_model"] < plain["score"]["whole_model"]


def test_the_same_inputs_give_the_same_bytes(tuned, float_folder, train, tmp_path):
    tune(options(float_folder, train, tmp_path / "again"))
    assert all((tmp_path / "again" / name).read_bytes() == (tuned[0] / name).read_bytes() for name in FILES)


def test_it_can_start_from_a_quantized_folder(float_folder, train, calibrated, tmp_path):
    result = tune(options(float_folder, train, tmp_path / "q", start=str(calibrated[0]), layer_steps=0, steps=3))
    assert result["scheme"] == "w8a8"
    assert calibrated[0].exists()
    assert problems(tmp_path / "q") == []


@pytest.mark.parametrize("loss", ["task", "both"])
def test_transcripts_can_be_learned_and_choose_the_best(loss, float_folder, train, tmp_path):
    result = tune(options(float_folder, train, tmp_path / "q", loss=loss, layer_steps=0, steps=3))
    checks = [each for each in result["records"] if each["stage"] == "end to end"]
    assert all(math.isfinite(each["development_loss"]) for each in checks)
    best = min(checks, key=lambda each: each["development_loss"])
    assert result["score"]["whole_model"] == pytest.approx(best["score"], abs=1e-5)
    assert [each["kept"] for each in checks] == [
        each["development_loss"] < min((e["development_loss"] for e in checks[:n]), default=math.inf)
        for n, each in enumerate(checks)
    ]
    assert read_plan(tmp_path / "q").calibration["training"]["loss"] == loss


@pytest.mark.parametrize(
    "limit",
    [
        {"avg_bits": 4.0, "width_steps": 6},
        {"target_compression": 1.2, "width_steps": 6},
        {"avg_bits": 4.0, "width_steps": 0},
        {"avg_bits": 4.0, "width_steps": 3, "sparsity": "2:4"},
    ],
    ids=str,
)
def test_bits_can_be_mixed(limit, float_folder, train, tmp_path):
    result = tune(options(float_folder, train, tmp_path / "q", scheme="w8a8", layer_steps=0, steps=2, **limit))
    if "avg_bits" in limit:
        assert len({site["weight_bits"] for site in result["sites"] if "reason" not in site}) > 1
        assert result["average_bits"] <= 4.0
    else:
        assert result["bytes_float32"] / result["bytes_after"] >= limit["target_compression"]
    assert problems(tmp_path / "q") == []
    stages_of = [each["stage"] for each in result["records"]]
    assert ("widths" in stages_of) == (limit.get("width_steps") != 0)
    again = tune(options(float_folder, train, tmp_path / "q2", scheme="w8a8", layer_steps=0, steps=2, **limit))
    assert again["records"] == result["records"]
    assert (tmp_path / "q2" / "model.safetensors").read_bytes() == (tmp_path / "q" / "model.safetensors").read_bytes()


def test_learned_widths_are_not_searched_again_after_a_kill(float_folder, train, tmp_path, monkeypatch):
    changes = {"scheme": "w8a8", "avg_bits": 4.0, "width_steps": 4, "layer_steps": 0, "steps": 2}
    expected = tune(options(float_folder, train, tmp_path / "expected", **changes))
    interrupted(monkeypatch, float_folder, train, tmp_path / "q", **changes)
    assert problems(tmp_path / "q.training" / "widths") == []
    (tmp_path / "q.training" / ".widths.stablequant-abc" / "new").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(stages.Stages, "search_widths", None)
        found = tune(options(float_folder, train, tmp_path / "q", resume=True, **changes))
    assert found["records"] == expected["records"]
    assert all((tmp_path / "q" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes() for name in FILES)


def test_zeros_stay_where_they_are(float_folder, train, tmp_path):
    tune(options(float_folder, train, tmp_path / "q", scheme="w4a8", sparsity="2:4", layer_steps=2, steps=2))
    assert problems(tmp_path / "q") == []
    model = AutoModelForCTC.from_pretrained(float_folder)
    quantized = read_plan(tmp_path / "q").quantized()
    found = stored_weights(tmp_path / "q", model, quantized)
    sparse = [each for name, each in found.items() if quantized[name].weight.format.sparsity is not None]
    assert sparse
    for each in sparse:
        assert (each.codes.view(len(each.codes), -1, 4) != 0).sum(-1).max() <= 2
    tune(options(float_folder, train, tmp_path / "again", start=str(tmp_path / "q"), layer_steps=0, steps=1))
    assert problems(tmp_path / "again") == []


def test_whisper_learns_the_tokens_that_it_writes(train, tmp_path):
    folder = tiny.save(tmp_path / "float", "whisper", "english")
    result = tune(options(folder, train, tmp_path / "q", layer_steps=6, steps=8))
    assert problems(tmp_path / "q") == []
    assert any(each["after"] < each["before"] for each in result["records"] if "after" in each)
    assert read.load(str(tmp_path / "q")).transcribe(tiny.wave(1, 9000)) is not None


def test_a_loss_that_is_no_number_stops_and_keeps_the_best(float_folder, train, tmp_path, monkeypatch):
    calls = []

    def broken(answer, logits):
        calls.append(None)
        return logits.sum() * (float("nan") if len(calls) > 8 else 1e-6)

    monkeypatch.setattr(end_to_end, "divergence", broken)
    with pytest.warns(UserWarning, match="not finite after 2 steps"):
        result = tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=12))
    assert problems(tmp_path / "q") == []
    assert math.isfinite(result["score"]["whole_model"])


def test_time_can_be_the_limit(float_folder, train, tmp_path):
    result = tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=None, minutes=0.05))
    assert result["training"]["steps"] > 0
    assert result["records"][-1]["step"] > 0


def test_time_limits_both_stages_together(float_folder, train, tmp_path, monkeypatch):
    now = [0.0]

    def ticking():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(stages.time, "monotonic", ticking)
    result = tune(options(float_folder, train, tmp_path / "q", layer_steps=None, steps=None, minutes=5))
    layers = [each["steps"] for each in result["records"] if each["stage"] == "layer by layer"]
    assert len(layers) > 1
    assert max(layers) <= 2 * min(layers), "each has the same share of the time"
    assert 0.6 * 300 / 4 < sum(layers) < 0.6 * 300, "a step looks at the clock several times"
    assert result["training"]["steps"] > 0


def test_recordings_of_dev_must_not_be_trained_on(float_folder, train, tmp_path):
    dev = tmp_path / "dev"
    dev.mkdir()
    shutil.copy(train / "3.wav", dev / "another name.wav")
    soundfile.write(dev / "new.wav", tiny.wave(99), tiny.RATE)
    with pytest.raises(InputError, match=r"dev: 1 of its recordings are in .*train.* too"):
        tune(options(float_folder, train, tmp_path / "q", dev=str(dev)))
    (dev / "another name.wav").unlink()
    result = tune(options(float_folder, train, tmp_path / "q", dev=str(dev), layer_steps=0, steps=2))
    assert result["training"] | {"recordings": 12, "development": 1} == result["training"]


def test_a_start_that_was_made_from_another_model_is_refused(float_folder, train, calibrated, tmp_path):
    torch.manual_seed(77)
    model = AutoModelForCTC.from_pretrained(float_folder)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.05 * each.std() * torch.randn_like(each))
    sibling = tmp_path / "sibling"
    shutil.copytree(float_folder, sibling)
    model.save_pretrained(sibling)
    with pytest.raises(InputError, match="was rounded from other weights than those of"):
        tune(options(sibling, train, tmp_path / "q", start=str(calibrated[0])))
    other = tiny.save(tmp_path / "other", "wav2vec2", "base", hidden_size=64, num_conv_pos_embedding_groups=4)
    with pytest.raises(InputError, match="pass a folder that was made from this model"):
        tune(options(other, train, tmp_path / "q", start=str(calibrated[0])))
    assert not (tmp_path / "q").exists()


def test_a_damaged_start_is_refused(float_folder, train, calibrated, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(calibrated[0], start)
    content = bytearray((start / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (start / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: .*--from needs a model that `sfm-quant verify` passes"):
        tune(options(float_folder, train, tmp_path / "q", start=str(start)))
    assert not (tmp_path / "q").exists()


def test_training_goes_on_from_a_trained_model(tuned, float_folder, train, tmp_path):
    out, first = tuned
    again = tune(options(float_folder, train, tmp_path / "q", start=str(out), steps=1, layer_steps=0))
    assert again["training"]["score_before"] == pytest.approx(first["score"]["whole_model"], abs=1e-5)
    assert again["score"]["whole_model"] <= first["score"]["whole_model"] + 1e-5


def interrupted(monkeypatch, *arguments, **changes):
    """A run that ends after its start was calibrated, and leaves its journal."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages.Stages, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(options(*arguments, **changes))


def test_half_a_start_of_a_killed_run_is_no_obstacle(tuned, float_folder, train, tmp_path, monkeypatch):
    interrupted(monkeypatch, float_folder, train, tmp_path / "q")
    left = tmp_path / "q.training" / ".start.stablequant-abc"
    (left / "new").mkdir(parents=True)
    tune(options(float_folder, train, tmp_path / "q", resume=True))
    assert all((tmp_path / "q" / name).read_bytes() == (tuned[0] / name).read_bytes() for name in FILES)
    assert [each.name for each in tmp_path.iterdir()] == ["q"]


def test_a_state_without_its_fingerprint_is_not_used(tuned, float_folder, train, tmp_path, monkeypatch):
    interrupted(monkeypatch, float_folder, train, tmp_path / "q")
    (tmp_path / "q.training" / "fingerprint.json").unlink()
    (tmp_path / "q.training" / "training.safetensors").write_bytes(b"of another training")
    tune(options(float_folder, train, tmp_path / "q", resume=True))
    assert all((tmp_path / "q" / name).read_bytes() == (tuned[0] / name).read_bytes() for name in FILES)


def test_what_is_resumed_has_the_same_inputs(float_folder, train, calibrated, tmp_path, monkeypatch):
    start, data = tmp_path / "start", tmp_path / "data"
    shutil.copytree(calibrated[0], start)
    shutil.copytree(train, data)
    changes = {"start": str(start), "layer_steps": 0, "steps": 1, "loss": "task"}
    interrupted(monkeypatch, float_folder, data, tmp_path / "q", **changes)
    (data / "1.txt").write_text("B B")
    with pytest.raises(InputError, match="other recordings or other options"):
        tune(options(float_folder, data, tmp_path / "q", resume=True, **changes))
    shutil.copy(train / "1.txt", data / "1.txt")
    calibrate(CalibrateOptions(str(float_folder), str(train), str(start), method="max"))
    with pytest.raises(InputError, match="another model, other recordings or other options"):
        tune(options(float_folder, data, tmp_path / "q", resume=True, **changes))


def test_a_finished_training_is_not_repeated(float_folder, train, tmp_path, capsys, monkeypatch):
    first = tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=2))
    monkeypatch.setattr(stages.Stages, "train", None)
    again = tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=2, resume=True))
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert "already complete" in capsys.readouterr().err


def test_a_trained_model_is_not_a_finished_calibration(float_folder, train, tmp_path):
    tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=2))
    before = (tmp_path / "q" / "plan.json").read_bytes()
    of_start = options(float_folder, train, tmp_path / "q").calibration(str(train), str(tmp_path / "q"))
    calibrate(replace(of_start, resume=True))
    assert (tmp_path / "q" / "plan.json").read_bytes() != before


def test_a_link_is_followed(float_folder, train, tmp_path):
    (tmp_path / "other disk").mkdir()
    (tmp_path / "q").symlink_to(tmp_path / "other disk")
    tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=1))
    assert (tmp_path / "q").is_symlink()
    assert problems(tmp_path / "other disk") == []


def test_a_score_that_is_no_number_ends_training(float_folder, train, tmp_path, monkeypatch):
    scores = iter([5.0, float("nan")])
    monkeypatch.setattr(end_to_end, "total", lambda _parts: next(scores))
    with pytest.warns(UserWarning, match="was not finite after"):
        result = tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=12))
    assert result["records"][-1]["score"] is None
    assert result["score"]["whole_model"] == 5.0
    assert problems(tmp_path / "q") == []


def test_a_layer_whose_error_is_no_number_keeps_its_start(float_folder, train, tmp_path, monkeypatch):
    whole, calls = layerwise._error, []

    def broken(module, example, weights):
        calls.append(None)
        return whole(module, example, weights) * (float("nan") if len(calls) > 6 else 1)

    monkeypatch.setattr(layerwise, "_error", broken)
    with pytest.warns(UserWarning, match="or in a layer before"):
        result = tune(options(float_folder, train, tmp_path / "q", layer_steps=10, steps=1))
    json.dumps(result, allow_nan=False)
    assert any(each.get("after", 0) is None for each in result["records"])
    assert problems(tmp_path / "q") == []


def test_transcripts_that_the_model_cannot_spell_are_refused(float_folder, train, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(train, data)
    for each in data.glob("*.txt"):
        each.write_text(each.read_text().lower())
    with pytest.raises(InputError, match=r"12 of 12 transcripts have words \(a.*in its letter case"):
        tune(options(float_folder, data, tmp_path / "q", loss="task"))


def test_transcripts_that_are_too_long_are_left_out(float_folder, train, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(train, data)
    (data / "2.txt").write_text("A B " * 400)
    (data / "3.txt").write_text("x")
    with pytest.warns(UserWarning, match="2 of 12 recordings are left out"):
        result = tune(options(float_folder, data, tmp_path / "q", loss="both", layer_steps=0, steps=1))
    assert result["training"]["recordings"] + result["training"]["development"] == 10


def test_texts_that_share_a_window_fit_the_decoder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(6):
        soundfile.write(data / f"{number}.wav", tiny.wave(number, 3000), tiny.RATE)
        (data / f"{number}.txt").write_text("ABCDEFGHABCDEFGHABCDEFG")
    folder = tiny.save(tmp_path / "float", "whisper", "english")
    result = tune(options(folder, data, tmp_path / "q", loss="task", layer_steps=0, steps=2))
    assert math.isfinite(result["records"][-1]["development_loss"])


def test_recordings_on_which_the_float_model_repeats_itself_are_reported(train, tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "float", "whisper", "english")
    monkeypatch.setattr(end_to_end, "loops", lambda _text: True)
    with pytest.warns(UserWarning, match="were left out of training end to end, because the float model repeats"):
        result = tune(options(folder, train, tmp_path / "q", loss="both", layer_steps=0, steps=2))
    assert result["records"][0]["kept"]
    assert problems(tmp_path / "q") == []


def test_a_run_that_is_killed_after_its_first_check_has_it_once(float_folder, train, tmp_path, monkeypatch):
    changes = {"layer_steps": 0, "steps": 4}
    expected = tune(options(float_folder, train, tmp_path / "expected", **changes))
    plain = stages.Journal.save

    def saved(self, *args):
        plain(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages.Journal, "save", saved)
        with pytest.raises(KeyboardInterrupt):
            tune(options(float_folder, train, tmp_path / "q", **changes))
    assert tune(options(float_folder, train, tmp_path / "q", resume=True, **changes))["records"] == expected["records"]
    assert all((tmp_path / "q" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes() for name in FILES)


def test_copies_of_what_chooses_the_best_are_not_trained_on(float_folder, train, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(4):
        shutil.copy(train / "3.wav", data / f"{number}.wav")
    with pytest.raises(InputError, match="all recordings are copies of one"):
        tune(options(float_folder, data, tmp_path / "q"))
    shutil.copy(train / "4.wav", data / "a.wav")
    result = tune(options(float_folder, data, tmp_path / "q", layer_steps=0, steps=1))
    assert result["training"]["recordings"] == 1


@pytest.mark.filterwarnings("ignore:.*the float model repeats itself")
def test_long_recordings_are_known_by_all_their_samples(float_folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    begin = tiny.wave(1, 31 * tiny.RATE)
    for number in range(2):
        soundfile.write(data / f"{number}.wav", np.concatenate([begin, tiny.wave(number + 5, 9000)]), tiny.RATE)
    tune(options(float_folder, data, tmp_path / "q", layer_steps=0, steps=1))
    _, found = audio.decoded(audio.listing(data, require_text=False), tiny.RATE, skip_bad=False)
    assert {each.sha256 for each in found} == set(read_plan(tmp_path / "q").calibration["audio_sha256"])


def test_a_wrong_start_does_not_discard_an_unfinished_training(float_folder, train, tmp_path, monkeypatch):
    interrupted(monkeypatch, float_folder, train, tmp_path / "q")
    with pytest.raises(InputError):
        tune(options(float_folder, train, tmp_path / "q", start=str(float_folder)))
    assert problems(tmp_path / "q.training" / "start") == []


def test_recordings_that_chose_or_calibrated_are_known_too(float_folder, train, calibrated, tmp_path):
    dev = tmp_path / "dev"
    dev.mkdir()
    soundfile.write(dev / "new.wav", tiny.wave(99), tiny.RATE)
    tune(options(float_folder, train, tmp_path / "q", dev=str(dev), start=str(calibrated[0]), layer_steps=0, steps=1))
    known = set(read_plan(tmp_path / "q").calibration["audio_sha256"])
    assert set(read_plan(calibrated[0]).calibration["audio_sha256"]) < known
    assert len(known) == len(read_plan(calibrated[0]).calibration["audio_sha256"]) + 13


def test_the_start_does_not_see_what_chooses_the_best(float_folder, train, tmp_path, monkeypatch):
    seen = []
    plain = tune_module.quantize
    monkeypatch.setattr(
        tune_module, "quantize", lambda *args: seen.extend(each.key for each in args[3]) or plain(*args)
    )
    tune(options(float_folder, train, tmp_path / "q", layer_steps=0, steps=1))
    training = {f"{number}.wav" for number in range(12)}
    assert len(seen) == 11
    assert set(seen) < training
    assert read_plan(tmp_path / "q").calibration["training"]["development"] == 1


def test_what_cannot_be_trained_is_one_sentence(float_folder, calibrated, train, tmp_path, shell):
    out = tmp_path / "q"
    silent = tmp_path / "no transcripts"
    silent.mkdir()
    for number in range(3):
        soundfile.write(silent / f"{number}.wav", tiny.wave(number), tiny.RATE)
    one = tmp_path / "one"
    one.mkdir()
    soundfile.write(one / "a.wav", tiny.wave(1), tiny.RATE)
    cases = {
        "already quantized": (calibrated[0], "--data", train),
        "pass 2 or more": (float_folder, "--data", one),
        "transcript": (float_folder, "--data", silent, "--loss", "task"),
        "out of reach": (float_folder, "--data", train, "--scheme", "w8a8", "--target-compression", "40"),
    }
    for sentence, arguments in cases.items():
        done = shell("tune", *arguments, "--out", out)
        assert done.returncode == 3, (sentence, done.stderr)
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert not out.exists()
    usage = {
        "--avg-bits chooses the bits of the weights; use 8-bit weights (w8) in": (
            "--scheme",
            "w3a8",
            "--avg-bits",
            "4",
        ),
        "is not of the form w8a8": ("--scheme", "w4", "--avg-bits", "4"),
        "--group-size is for weights of 4 bits and fewer": ("--scheme", "w8a8", "--group-size", "32"),
        "use only one of --layer-steps, --minutes": ("--layer-steps", "4", "--minutes", "1"),
    }
    for sentence, arguments in usage.items():
        done = shell("tune", float_folder, "--data", train, "--out", out, *arguments)
        assert done.returncode == 2, (sentence, done.stderr)
        assert sentence in done.stderr


def test_the_command_prints_what_was_gained(float_folder, train, tmp_path, shell):
    done = shell(
        *("tune", float_folder, "--data", train, "--out", tmp_path / "q", "--scheme", "w2a8"),
        *("--steps", "4", "--layer-steps", "2", "--json", tmp_path / "r.json"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert f"{result['average_bits']:.2f} bits a weight" in done.stdout
    assert f"{result['score']['whole_model']:.2f} now" in done.stdout
    text = shell("transcribe", tmp_path / "q", train / "0.wav")
    assert text.returncode == 0
    assert np.isfinite(result["seconds"])


def test_the_plan_says_what_is_true_after_training(tuned, float_folder, train, tmp_path):
    out, _ = tuned
    for choice in read_plan(out).quantized().values():
        assert choice.weight.rounding == "trained"
        assert choice.measured.weight_sqnr_db is not None
        if choice.input.method is None:
            assert choice.measured.clipped_share is None, "measured for the range before"
    again = CalibrateOptions(str(float_folder), str(train), str(tmp_path / "q"), plan=str(out))
    with pytest.warns(UserWarning) as told:  # noqa: PT030 (it is one of several)
        calibrate(again)
    sentences = [str(each.message) for each in told]
    assert any("its weights were trained" in each and "`sfm-quant tune --from`" in each for each in sentences)
    assert {choice.weight.rounding for choice in read_plan(tmp_path / "q").quantized().values()} <= {
        "nearest",
        "compensated",
    }
