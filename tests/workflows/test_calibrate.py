import json
import shutil

import numpy as np
import pytest
import soundfile
import tiny
import torch
from safetensors.torch import load_file, save_file

from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.models import checkpoint
from stablequant.models.recognizer import Recognizer
from stablequant.quantization.observation import collect
from stablequant.quantization.plan.plan import Plan
from stablequant.quantization.search import session, trials
from stablequant.speech import waveforms
from stablequant.workflows import calibrate as workflow
from stablequant.workflows.calibrate import calibrate


def options(float_folder, speech, out, **changes):
    return CalibrateOptions(str(float_folder), str(speech), str(out), **({"threshold": -1.0} | changes))


def plan(out):
    return Plan.from_json((out / "plan.json").read_text())


def same_model(a, b):
    """Whether two quantized folders hold the same plan, weights and evidence, byte for byte."""
    names = ("plan.json", "model.safetensors", "evidence/histograms.json")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_the_same_inputs_give_the_same_plan_and_weights_byte_for_byte(calibrated, float_folder, speech, tmp_path):
    calibrate(options(float_folder, speech, tmp_path / "again"))
    assert same_model(calibrated[0], tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]  # and no journal


def test_the_result_is_the_calibrate_json(calibrated):
    out, result = calibrated
    json.dumps(result, allow_nan=False)
    made = plan(out)
    assert set(result) == {
        *("schema", "plan", "scheme", "method", "selected_layers", "sites", "float_passes", "seconds"),
        *("bytes_before", "bytes_after", "bytes_float32", "skipped_bad", "score", "target_lang", "remarks"),
    }
    assert result["plan"] == str(out / "plan.json")
    assert [site["name"] for site in result["sites"]] == list(made.sites)
    assert result["selected_layers"] == [name for name, layer in made.layers.items() if layer.selected]
    assert result["float_passes"] == made.calibration["float_passes"]
    assert result["bytes_after"] < result["bytes_before"]


def test_threshold_decides_which_layers_are_selected(float_folder, speech, tmp_path):
    calibrate(options(float_folder, speech, tmp_path / "q", threshold=1e9))
    made = plan(tmp_path / "q")
    assert not any(layer.selected or layer.candidates for layer in made.layers.values())
    assert all(choice.input.clip_percent is None for choice in made.quantized().values())
    scores = sorted(layer.probe_score for layer in made.layers.values())
    middle = (scores[-2] + scores[-1]) / 2
    calibrate(options(float_folder, speech, tmp_path / "q", threshold=middle))
    assert [layer.probe_score for layer in plan(tmp_path / "q").layers.values() if layer.selected] == scores[-1:]


def test_a_selected_layer_takes_the_candidate_that_loses_least(calibrated):
    made = plan(calibrated[0])
    assert made.layers
    for name, layer in made.layers.items():
        tried = dict(layer.candidates)
        assert tried[layer.clip_percent] == min(tried.values())
        assert len(tried) == len(layer.candidates)
        assert all(0 <= share <= 0.5 and round(share * 100) == pytest.approx(share * 100) for share in tried)
        clips = {choice.input.clip_percent for choice in made.quantized().values() if choice.layer == name}
        assert clips == {layer.clip_percent}


# ---- interrupted and resumed


def interrupt_after(monkeypatch, module, name, calls):
    """The function answers `calls` times and then is interrupted."""
    original, left = getattr(module, name), [calls]

    def interrupted(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    monkeypatch.setattr(module, name, interrupted)


# (where, after how many calls, recordings left to try): probe, search, refinement, zero and whole plan read four each.
POINTS = [
    ("collect.histogram_of", 0, 20),
    ("collect.histogram_of", 60, 20),
    ("trials.run_trials", 0, 20),
    ("trials.run_trials", 3, 17),
    ("trials.run_trials", 5, 15),
    ("trials.run_trials", 16, 4),
    ("checkpoint.write", 0, 0),
]


@pytest.mark.parametrize(("where", "calls", "left"), POINTS)
def test_an_interrupted_run_resumed_ends_with_the_same_plan(
    where, calls, left, calibrated, float_folder, speech, tmp_path, monkeypatch
):
    module, name = where.split(".")
    monkeypatch.setattr(session, "SAVE_EVERY", 1)
    with monkeypatch.context() as broken:
        modules = {"collect": collect, "trials": trials, "checkpoint": checkpoint}
        interrupt_after(broken, modules[module], name, calls)
        with pytest.raises(KeyboardInterrupt):
            calibrate(options(float_folder, speech, tmp_path / "q"))
    assert not (tmp_path / "q").exists()
    again = []
    run = trials.run_trials
    monkeypatch.setattr(trials, "run_trials", lambda *args: (again.append(1), run(*args))[1])
    calibrate(options(float_folder, speech, tmp_path / "q", resume=True))
    assert same_model(calibrated[0], tmp_path / "q")
    assert len(again) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q"]


def test_statistics_that_were_saved_are_not_gathered_again(calibrated, float_folder, speech, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SAVE_EVERY", 1)
    with monkeypatch.context() as broken:
        interrupt_after(broken, trials, "run_trials", 0)
        with pytest.raises(KeyboardInterrupt):
            calibrate(options(float_folder, speech, tmp_path / "q"))
    monkeypatch.setattr(collect, "histogram_of", None)
    calibrate(options(float_folder, speech, tmp_path / "q", resume=True))
    assert same_model(calibrated[0], tmp_path / "q")


@pytest.mark.parametrize(("where", "calls"), [("collect.histogram_of", 60), ("trials.run_trials", 5)])
def test_tokens_that_a_decoder_has_written_are_not_written_again(where, calls, speech, tmp_path, monkeypatch):
    """The slowest step of a small Whisper. A resumed run writes those of the recordings that are left."""
    folder = tiny.save(tmp_path / "float", "whisper", "multilingual")
    written, plain = [], Recognizer.forced
    monkeypatch.setattr(Recognizer, "forced", lambda *args: (written.append(1), plain(*args))[1])
    calibrate(options(folder, speech, tmp_path / "whole"))
    assert len(written) == 4, "each recording once"
    module, name = where.split(".")
    with monkeypatch.context() as broken:
        interrupt_after(broken, {"collect": collect, "trials": trials}[module], name, calls)
        with pytest.raises(KeyboardInterrupt):
            calibrate(options(folder, speech, tmp_path / "q"))
    assert len(written) > 4
    calibrate(options(folder, speech, tmp_path / "q", resume=True))
    assert len(written) == 8
    assert same_model(tmp_path / "whole", tmp_path / "q")


def test_other_settings_of_writing_are_another_calibration(speech, tmp_path, monkeypatch):
    folder = tiny.save(tmp_path / "float", "whisper", "english")
    with monkeypatch.context() as broken:
        interrupt_after(broken, trials, "run_trials", 0)
        with pytest.raises(KeyboardInterrupt):
            calibrate(options(folder, speech, tmp_path / "q"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "suppress_tokens": [1]}))
    with pytest.raises(InputError, match="started with another model, other recordings or other options"):
        calibrate(options(folder, speech, tmp_path / "q", resume=True))


CHANGES = {
    "scheme": {"scheme": "w8a6"},
    "method": {"method": "max"},
    "score": {"score": "wer"},
    "threshold": {"threshold": 0.0},
    "seed": {"seed": 1},
    "sparsity": {"sparsity": "2:4"},
    "fewer recordings": {"max_samples": 2},
}


@pytest.fixture(scope="module")
def interrupted(float_folder, speech, tmp_path_factory):
    """A folder with the journal of a run that was interrupted, and its recordings."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(speech, folder / "speech")
    with pytest.MonkeyPatch.context() as broken:
        interrupt_after(broken, trials, "run_trials", 1)
        with pytest.raises(KeyboardInterrupt):
            calibrate(options(float_folder, folder / "speech", folder / "q"))
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_resuming_with_another_option_is_refused(change, interrupted, float_folder):
    with pytest.raises(InputError, match="started with another model, other recordings or other options"):
        calibrate(options(float_folder, interrupted / "speech", interrupted / "q", resume=True, **CHANGES[change]))


def test_resuming_with_another_model_is_refused(interrupted, tmp_path):
    tiny.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.bias"][0] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="started with another model"):
        calibrate(options(tmp_path, interrupted / "speech", interrupted / "q", resume=True))


@pytest.mark.parametrize("change", ["renamed", "another transcript", "another recording"])
def test_resuming_with_other_recordings_is_refused(change, interrupted, float_folder, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "copy")
    data = folder / "speech"
    if change == "renamed":  # the journal counts recordings in their order
        (data / "0.wav").rename(data / "9.wav")
        (data / "0.txt").rename(data / "9.txt")
    elif change == "another transcript":
        (data / "0.txt").write_text("C C C")
    else:
        soundfile.write(data / "0.wav", tiny.wave(99, 3000), tiny.RATE)
    with pytest.raises(InputError, match="started with another model, other recordings"):
        calibrate(options(float_folder, data, folder / "q", resume=True))


def test_resuming_what_is_complete_leaves_it(calibrated, float_folder, speech, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(calibrated[0], tmp_path / "q")
    (folder / "README.md").write_text("mine")
    monkeypatch.setattr(workflow, "begin", None)
    found = calibrate(options(float_folder, speech, folder, resume=True))
    assert "already complete" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
    changing = {"seconds", "plan"}
    assert {k: v for k, v in found.items() if k not in changing} == {
        k: v for k, v in calibrated[1].items() if k not in changing
    }


def test_resuming_over_a_model_of_other_inputs_replaces_it(calibrated, float_folder, speech, tmp_path, capsys):
    folder = shutil.copytree(calibrated[0], tmp_path / "q")
    calibrate(options(float_folder, speech, folder, resume=True, method="max"))
    assert "which the new one will replace" in capsys.readouterr().err
    assert plan(folder).method == "max"


# ---- what cannot be calibrated


def refused(message, *arguments, **changes):
    with pytest.raises(InputError, match=message) as error:
        calibrate(options(*arguments, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_options_that_do_not_exist(float_folder, speech, tmp_path):
    refused("--score is loss; it must be one of logits, wer", float_folder, speech, tmp_path / "q", score="loss")
    refused("scheme 'int8'", float_folder, speech, tmp_path / "q", scheme="int8")
    refused("--method is uniform; it must be one of", float_folder, speech, tmp_path / "q", method="uniform")
    refused("did you mean mse", float_folder, speech, tmp_path / "q", method="mze")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_quantized_already(calibrated, speech, tmp_path):
    refused(r"already quantized \(w8a8\); calibrate the float model", calibrated[0], speech, tmp_path / "q")


def test_recordings_that_are_too_short_or_silent(float_folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(data / "silent.wav", np.zeros(4000), tiny.RATE)
    soundfile.write(data / "short.wav", tiny.wave(0, 300), tiny.RATE)
    message = "of 2 recordings 1 are shorter than 25 ms and 1 are silent"
    assert str(data) in refused(message, float_folder, data, tmp_path / "q")


def test_short_and_silent_recordings_among_others_are_counted(float_folder, speech, tmp_path):
    data = shutil.copytree(speech, tmp_path / "data")
    soundfile.write(data / "silent.wav", np.zeros(4000), tiny.RATE)
    soundfile.write(data / "short.wav", tiny.wave(0, 300), tiny.RATE)
    calibrate(options(float_folder, data, tmp_path / "q", method="max"))
    about = plan(tmp_path / "q").calibration
    assert (about["recordings"], about["skipped_too_short"], about["silent"]) == (5, 1, 1)
    assert about["seconds"] == pytest.approx(sum(4000 + 800 * n for n in range(4)) / 16000 + 0.25)


def test_each_recording_is_decoded_once_before_the_work(float_folder, speech, tmp_path, monkeypatch):
    decoded, plain = [], waveforms.opened
    monkeypatch.setattr(waveforms, "opened", lambda name, *rest: decoded.append(name[-5:]) or plain(name, *rest))
    monkeypatch.setattr(workflow, "begin", None)  # the work would begin here
    with pytest.raises(TypeError):
        calibrate(options(float_folder, speech, tmp_path / "q"))
    assert sorted(decoded) == ["0.wav", "1.wav", "2.wav", "3.wav"]


def test_bad_recordings_stop_it_or_are_left_out_told_and_counted(float_folder, speech, tmp_path):
    data = shutil.copytree(speech, tmp_path / "data")
    (data / "bad.wav").write_bytes(b"no sound")
    told = refused("bad.wav: a text file, not audio", float_folder, data, tmp_path / "q", method="max")
    assert "bad.wav: a text file, not audio" in told
    with pytest.warns(UserWarning, match=r"left out: .*bad\.wav: a text file, not audio"):
        found = calibrate(options(float_folder, data, tmp_path / "q", method="max", skip_bad=True))
    about = plan(tmp_path / "q").calibration
    assert (about["recordings"], about["skipped_bad"], found["skipped_bad"]) == (4, 1, 1)


def test_weights_that_are_not_finite(float_folder, speech, tmp_path):
    model = tiny.build()
    with torch.no_grad():
        model.lm_head.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    tiny.processor(tmp_path / "nan").save_pretrained(tmp_path / "nan")
    refused("NaN or infinite", tmp_path / "nan", speech, tmp_path / "q")
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("method", ["stable", "max"])
def test_word_errors_as_the_score(method, float_folder, speech, tmp_path):
    calibrate(options(float_folder, speech, tmp_path / "q", score="wer", method=method))
    made = plan(tmp_path / "q")
    assert made.score["name"] == "wer"
    assert np.isfinite(made.score["whole_model"])


def test_the_score_of_words_needs_transcripts(float_folder, speech, tmp_path):
    data = shutil.copytree(speech, tmp_path / "data", ignore=shutil.ignore_patterns("2.txt"))
    assert "2.wav" in refused("no transcript", float_folder, data, tmp_path / "q", score="wer")
    calibrate(options(float_folder, data, tmp_path / "q", method="max"))
