"""What a planner works with."""

import itertools
from contextlib import contextmanager
from dataclasses import replace

import pytest
import tiny

from stablequant.foundation.options import CalibrateOptions
from stablequant.quantization.observation import collect
from stablequant.quantization.planners.base import make_planner
from stablequant.quantization.ranges import mse
from stablequant.quantization.search import trials
from stablequant.quantization.search.forward_pass import CalibrationUtterance
from stablequant.quantization.search.resume import ResumeState
from stablequant.quantization.search.scores import Trial
from stablequant.quantization.search.session import begin, sites_of
from stablequant.workflows.calibration_data import read_recordings


def made_for(recognizer, found, tmp_path):
    recordings, about = read_recordings(found, recognizer)
    journal = ResumeState(tmp_path / "journal", {}, resume=False)
    return begin(recognizer, recordings, journal, found, about)


def test_removing_more_never_widens_the_range(float_folder, speech, tmp_path):
    # What the search compares: max ranges on histograms from which more and more was removed.
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    found = CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "q"), method="max")
    session = made_for(recognizer, found, tmp_path)
    site = next(site for site in session.sites if site.reason is None)
    found = [session.choices.choose(site, "max", clip) for clip in (None, 0.0, 0.01, 0.1, 0.5)]
    ranges = [choice.input for choice in found]
    assert found[0].measured.clipped_share == 0.0
    assert (ranges[0].low, ranges[0].high) == (ranges[1].low, ranges[1].high)
    assert all(a.low <= b.low and a.high >= b.high for a, b in itertools.pairwise(ranges))
    assert 0 < found[-1].measured.clipped_share <= 0.005
    assert ranges[-1].high - ranges[-1].low < ranges[0].high - ranges[0].low


def test_what_the_engine_cannot_run_stays_in_float_for_its_reason(tmp_path):
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    assert sites_of(recognizer) == recognizer.family.sites(recognizer.model)
    recognizer.model.wav2vec2.feature_extractor.conv_layers[2].conv.dilation = (2,)
    [refused] = set(sites_of(recognizer)) - set(recognizer.family.sites(recognizer.model))
    assert refused.name == "wav2vec2.feature_extractor.conv_layers.2.conv"
    assert refused.reason == "the integer kernels have no dilated convolution"


# ---- the account of float passes


def once(collect):
    """Statistics that are those of the first recording throughout; what they cost is counted all the same."""

    def fake(model, found, forward, recordings, stats=None):
        for number, each in enumerate(recordings):
            if number == 0:
                *_, stats = collect(model, found, forward, [each])
            yield stats

    return fake


def passes(model, tmp_path, monkeypatch, recordings, layer_score):
    """What a plan for `model` costs by its own account, and as counted; trials are answered without computing."""
    done, held = {"frames": 0.0}, []

    def answer(_recognizer, layers, _recording, trials, _score, _tick):
        done["frames"] += 1 + sum(held[0].passes.suffix(trial.first) for trial in trials)
        return {trial.key: (layer_score, 1.0) for trial in trials}

    monkeypatch.setattr(trials, "run_trials", answer)
    monkeypatch.setattr(collect, "histograms", once(collect.histograms))
    monkeypatch.setattr(mse, "RATIOS", mse.RATIOS[::21])
    recognizer = tiny.recognizer(tmp_path=tmp_path)
    found = CalibrateOptions("model", "data", str(tmp_path / "out"))
    rows = [CalibrationUtterance(str(n), lambda n=n: tiny.wave(n, 1000), "A") for n in range(recordings)]
    journal = ResumeState(tmp_path / "journal", {}, resume=False)
    session = begin(replace(recognizer, model=model), rows, journal, found, {})
    held.append(session)
    plan = make_planner("stable", found).plan(session)
    made = session.scored(*session.rounder.round(plan))
    probe = len(session.trials.recordings)
    assert session.passes.spent == pytest.approx((recordings + done["frames"]) / probe)
    return made.calibration["float_passes"], made


DEEP = {"num_hidden_layers": 24, "conv_dim": (16,) * 7, "hidden_size": 16, "intermediate_size": 512}


@pytest.mark.parametrize(
    ("recordings", "points"),
    [(4, 0.0), (16, 0.0), (128, 0.0), (4, 1.0), (16, 1.0), (128, 1.0)],
    ids=lambda each: each if isinstance(each, int) else "all selected" if each else "none selected",
)
def test_a_deep_model_costs_at_most_40_float_passes(recordings, points, tmp_path, monkeypatch):
    cost, made = passes(tiny.prepared("wav2vec2", "large", **DEEP), tmp_path, monkeypatch, recordings, points)
    assert len(made.layers) == 33
    assert all(layer.selected == (points > 0) for layer in made.layers.values())
    assert cost <= 40


@contextmanager
def counted(recognizer):
    """The multiply-adds of all sites inside, in a list of one number."""
    work, handles = [0.0], []

    def counter(site):
        def count(_module, _inputs, output):
            work[0] += output.numel() / site.out_channels * site.macs_per_output_frame

        return count

    for site in recognizer.family.sites(recognizer.model):
        if site.reason is None:
            handles.append(recognizer.model.get_submodule(site.name).register_forward_hook(counter(site)))
    yield work
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("score", ["logits", "wer"])
@pytest.mark.parametrize(("family", "form"), [("wav2vec2", "base"), ("whisper", "english")])
def test_the_account_is_of_what_is_computed(family, form, score, tmp_path):
    """Also where models write a text of their own: then a trial computes the whole decoder, whatever it changes."""
    recognizer = tiny.recognizer(family, form, tmp_path=tmp_path, **({"sharp": False} if family == "whisper" else {}))
    waves = [tiny.wave(n, 16000) for n in range(3)]
    inputs = [recognizer.inputs(wave) for wave in waves]
    followed = [recognizer.forced(each) for each in inputs]
    with counted(recognizer) as float_pass:
        for pair in zip(inputs, followed, strict=True):
            recognizer.logits(*pair)
    rows = [CalibrationUtterance(str(n), lambda wave=wave: wave, "A B") for n, wave in enumerate(waves)]
    found = CalibrateOptions("model", "data", str(tmp_path / "out"), score=score)
    with counted(recognizer) as work:
        session = begin(recognizer, rows, ResumeState(tmp_path / "journal", {}, resume=False), found, {})
        assert session.passes.spent == pytest.approx(work[0] / float_pass[0], rel=0.1)
        for layer in session.layers:
            before, work[0] = session.passes.spent, 0.0
            here = [site for site in session.sites if site.layer == layer]
            choices = {site.name: session.choices.choose(site, "max", None, trial=True) for site in here}
            session.trials.run(layer, [Trial(layer, layer, choices, session.trials.weights(choices))])
            spent = session.passes.spent - before
            assert spent == pytest.approx(work[0] / float_pass[0], rel=0.1), layer


def test_the_suffix_of_a_layer_is_its_share_of_the_work_from_there_on(tmp_path, float_folder, speech):
    session = made_for(
        tiny.recognizer(tmp_path=tmp_path),
        CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "q"), threshold=-1.0),
        tmp_path,
    )
    suffixes = [session.passes.suffix(layer) for layer in session.layers]
    assert suffixes[0] == pytest.approx(1.0)
    assert suffixes == sorted(suffixes, reverse=True)
    assert 0 < suffixes[-1] < 0.01
