"""Step 4 of planners/stable.py: where zero lies on the grid of the first site."""

from dataclasses import replace

import pytest
import tiny

from stablequant.foundation.options import CalibrateOptions
from stablequant.quantization.plan.choice import LayerChoice
from stablequant.quantization.planners import stable
from stablequant.quantization.search.resume import ResumeState
from stablequant.quantization.search.session import begin
from stablequant.quantization.search.trials import Trials
from stablequant.workflows.calibration_data import read_recordings

FIRST = "wav2vec2.feature_extractor.conv_layers.1.conv"


@pytest.fixture
def calibrated_once(speech, tmp_path):
    recognizer = tiny.recognizer(num_hidden_layers=1, tmp_path=tmp_path)
    options = CalibrateOptions("model", str(speech), str(tmp_path / "q"))
    recordings, about = read_recordings(options, recognizer)
    session = begin(recognizer, recordings, ResumeState(tmp_path / "journal", {}, False), options, about)
    choices = {site.name: session.choices.choose(site, "mse") for site in session.sites}
    return session, choices, {layer: LayerChoice(False, "why") for layer in session.layers}


@pytest.mark.parametrize("better", ["mid-tread", "mid-rise"])
def test_the_grid_whose_whole_plan_scores_better_is_taken(better, calibrated_once, monkeypatch):
    session, choices, layers = calibrated_once
    scores = {name: 1.0 if name == better else 2.0 for name in ("mid-tread", "mid-rise")}
    monkeypatch.setattr(Trials, "run", lambda self, stage, trials: {t.key: scores[t.key] for t in trials})
    found, said = stable.place_zero(session, choices, layers)
    assert bool(found[FIRST].mid_rise) == (better == "mid-rise")
    assert {name for name in found if found[name] != choices[name]} <= {FIRST}
    where = "between two codes" if better == "mid-rise" else "a code"
    assert f"zero {where} the whole plan loses 1.000, else 2.000" in said[choices[FIRST].layer].why


def test_the_scores_are_those_of_the_whole_plan(calibrated_once):
    session, choices, layers = calibrated_once
    before = session.passes.spent
    found, said = stable.place_zero(session, choices, layers)
    assert session.passes.spent == pytest.approx(before + 3)
    assert "the whole plan loses" in said[found[FIRST].layer].why


def test_without_values_below_zero_there_is_nothing_to_place(calibrated_once):
    session, choices, layers = calibrated_once
    choices[FIRST] = replace(choices[FIRST], low=0.0, zero_point=0)
    assert stable.place_zero(session, choices, layers) == (choices, layers)
