"""What every planner promises, tested for each file of the folder; `uniform` with every range method."""

from dataclasses import replace

import pytest
import tiny

from stablequant.foundation import registry
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.families.sites import find_sites
from stablequant.quantization.numerics.integer_grid import affine, signed_grid
from stablequant.quantization.plan.plan import Plan
from stablequant.quantization.planners import stable
from stablequant.quantization.planners.base import make_planner
from stablequant.quantization.search.resume import ResumeState
from stablequant.quantization.search.session import begin
from stablequant.workflows.calibration_data import read_recordings

RANGES = ("uniform", "edited")  # planners whose ranges are those of one method
PLANNERS = [(name, "stable") for name in registry.names("planners") if name not in RANGES]
PLANNERS += [("uniform", method) for method in registry.names("ranges")] + [("edited", "mse")]
BITS = {"w8a8": (8, 8), "w6a4": (6, 4), "w3a8": (3, 8)}
LIMIT = 3.7  # bits on average, for the planner that mixes them
SCHEMES = {name: [*BITS] if name != "mixed" else ["w8a8"] for name in registry.names("planners")}


def make(planner, method, scheme, speech, folder):
    """(session, plan)"""
    folder.mkdir()
    recognizer = tiny.recognizer(num_hidden_layers=1, tmp_path=folder)
    options = CalibrateOptions("model", str(speech), str(folder / "q"), scheme=scheme, method=method, threshold=0.05)
    if planner == "mixed":
        options = replace(options, avg_bits=LIMIT, group_size=32)
    if planner == "edited":
        options = replace(options, plan=str(folder / "plan.json"))
    recordings, about = read_recordings(options, recognizer)
    session = begin(recognizer, recordings, ResumeState(folder / "journal", {}, False), options, about)
    if planner == "edited":
        (folder / "plan.json").write_text(make_planner("uniform", options).plan(session).to_json())
    return session, make_planner(options.planner(), options).plan(session)


@pytest.fixture(
    scope="module",
    params=[(*each, scheme) for each in PLANNERS for scheme in SCHEMES[each[0]]],
    ids=lambda each: "-".join(each),
)
def planned(request, speech, tmp_path_factory):
    planner, method, scheme = request.param
    session, plan = make(planner, method, scheme, speech, tmp_path_factory.mktemp("plan") / "a")
    return session, plan, request.param


def test_options_choose_it_and_it_has_no_objection_to_its_own_plan(planned):
    session, plan, (planner, *_) = planned
    assert session.options.planner() == planner
    chosen = make_planner(planner, session.options)
    assert chosen.check(session.sites) is None
    assert list(chosen.remarks(replace(plan, score={**plan.score, "whole_model": 1.0}))) == []


def test_every_site_is_decided_in_forward_order(planned):
    session, plan, _ = planned
    found = find_sites(session.recognizer.model)
    assert list(plan.sites) == [site.name for site in found]
    assert [getattr(choice, "reason", None) for choice in plan.sites.values()] == [site.reason for site in found]


def test_the_plan_says_which_scheme_and_method_it_is_of(planned):
    _, plan, (planner, method, scheme) = planned
    assert plan.method == method
    if planner != "mixed":
        assert plan.scheme == scheme
        assert {(c.weight.format.bits, c.input.bits) for c in plan.quantized().values()} == {BITS[scheme]}


def test_bits_that_are_mixed_stay_under_their_limit_and_use_it(planned):
    _, plan, (planner, *_) = planned
    if planner == "mixed":
        average = plan.average_bits()
        assert 0.9 * LIMIT < average <= LIMIT
        assert plan.scheme == f"w{average:.2f}a8"
        assert len({c.weight.format.bits for c in plan.quantized().values()}) > 1


def test_the_plan_survives_json_byte_for_byte(planned):
    _, plan, _ = planned
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_the_same_plan_twice(planned, speech, tmp_path):
    _, plan, (planner, method, scheme) = planned
    assert make(planner, method, scheme, speech, tmp_path / "b")[1].to_json() == plan.to_json()


def test_grid_points_and_evidence_follow_from_the_ranges(planned):
    session, plan, _ = planned
    for name, choice in plan.quantized().items():
        seen, read = session.histograms[name], choice.input
        assert (read.scale, read.zero_point) == affine(read.low, read.high, read.grid)
        assert seen.minimum - seen.width <= read.low <= read.high <= seen.maximum + seen.width
        assert choice.measured.clipped_share == pytest.approx(seen.share_outside(read.low, read.high), abs=1e-8)
        assert choice.measured.input_sqnr_db > 0


def test_selected_layers_have_a_clip_and_candidates_and_the_others_none(planned):
    _, plan, (planner, *_) = planned
    assert bool(plan.layers) == (planner not in RANGES)
    for name, layer in plan.layers.items():
        assert layer.why
        assert layer.selected == (layer.clip_percent is not None) == bool(layer.candidates)
        clips = {choice.input.clip_percent for choice in plan.quantized().values() if choice.layer == name}
        assert clips == {layer.clip_percent}
        scores = {choice.measured.probe_score for choice in plan.quantized().values() if choice.layer == name}
        assert scores == {layer.probe_score}


def test_integer_weights_are_there_for_every_quantized_site(planned):
    session, plan, _ = planned
    plan, weights = session.rounder.round(plan)
    assert set(weights) == set(plan.quantized())
    for name, weight in weights.items():
        choice = plan.sites[name]
        assert choice.measured.weight_sqnr_db > 0
        assert weight.format == choice.weight.format
        if not weight.format.coarse:
            assert int(weight.codes.abs().max()) <= signed_grid(weight.format.bits).high


def test_the_whole_plan_is_scored(planned):
    session, plan, (planner, *_) = planned
    plan, weights = session.rounder.round(plan)
    verified = session.scored(plan, weights)
    assert 0 < verified.score["whole_model"] < 100
    assert verified.sites == plan.sites
    if planner != "mixed" and not any(c.weight.format.coarse for c in plan.quantized().values()):
        # the budget is that of the ranges; sensitivities and Gram matrices come on top
        assert verified.calibration["float_passes"] <= stable.BUDGET
