import itertools
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablequant.foundation import files
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.quantization.planners import mixed
from stablequant.quantization.search.choices import Choices
from stablequant.workflows.calibrate import calibrate

SPEECH = "calibration/clips/calibrate"
MODEL = "calibration/model"


def problem(seed, sites=4):
    rng = np.random.default_rng(seed)
    lost = {f"s{n}": dict(zip((8, 4, 3, 2), np.cumsum(rng.exponential(1, 4)), strict=True)) for n in range(sites)}
    sizes = {name: {bits: int(bits * rng.integers(10, 100)) for bits in (8, 4, 3, 2)} for name in lost}
    return lost, sizes


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), share=st.floats(0.0, 1.0), power=st.sampled_from([0.5, 1.0, 2.0]))
def test_the_knapsack_is_solved_exactly(seed, share, power):
    """Against all 4^4 combinations."""
    lost, sizes = problem(seed)
    least, most = (sum(of(each.values()) for each in sizes.values()) for of in (min, max))
    limit = least + share * (most - least)
    found = mixed.knapsack(lost, sizes, limit, power)

    def cost(bits):
        return sum(lost[name][bits[name]] ** power for name in lost)

    def taken(bits):
        return sum(sizes[name][bits[name]] for name in lost)

    every = [dict(zip(lost, each, strict=True)) for each in itertools.product((8, 4, 3, 2), repeat=len(lost))]
    assert taken(found) <= limit + 1e-6
    assert cost(found) <= min(cost(bits) for bits in every if taken(bits) <= limit) * (1 + 1e-6)


def test_no_site_gets_fewer_bits_than_the_floor():
    lost, _ = problem(1)
    sizes = {name: {bits: 10 * bits * (1 + n) for bits in (8, 4, 3, 2)} for n, name in enumerate(lost)}
    limit = sum(of_site[4] for of_site in sizes.values())
    assert set(mixed.knapsack(lost, sizes, limit, 1.0, floor=4).values()) == {4}
    found = mixed.knapsack(lost, sizes, limit, 1.0, floor=3)
    assert min(found.values()) >= 3
    assert sum(sizes[name][bits] for name, bits in found.items()) <= limit


def test_a_limit_that_nothing_reaches_is_told():
    lost, sizes = problem(0)
    with pytest.raises(InputError, match="the limit leaves 3 after the parts in float; allow more"):
        mixed.knapsack(lost, sizes, 3.0, 1.0)


@pytest.fixture(scope="module")
def mixed_model(tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "q"
    options = CalibrateOptions(MODEL, SPEECH, str(out), method="mse", max_samples=3, target_compression=8.0)
    return calibrate(options), out


def test_the_folder_is_as_many_times_smaller_as_was_asked(mixed_model):
    result, _ = mixed_model
    assert 8.0 <= result["bytes_before"] / result["bytes_after"] < 8.3


def test_the_plan_holds_several_widths_and_says_how_each_was_rounded(mixed_model):
    result, out = mixed_model
    quantized = [site for site in result["sites"] if "reason" not in site]
    assert len({site["weight_bits"] for site in quantized}) > 1
    for site in quantized:
        assert site["rounding"] == ("compensated" if site["weight_bits"] <= 4 else "nearest")
        assert site["weight_sqnr_db"] > 5
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["scheme"] == result["scheme"]


def test_a_bound_on_the_word_error_rate_gives_a_smaller_model_that_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(mixed, "STEPS", 1)
    given = {"method": "mse", "rounding": "nearest", "max_samples": 4, "max_wer_increase": 30.0}  # nearest is faster
    options = CalibrateOptions(MODEL, SPEECH, str(tmp_path / "q"), **given)
    with pytest.warns(UserWarning, match="the held-out set is too small to check a 30-point limit"):
        result = calibrate(options)
    assert result["bytes_before"] / result["bytes_after"] > 4.2
    assert result["held_out"]["recordings"] == 2
    assert result["held_out"]["wer_increase"] <= 30.0


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"scheme": "w4a8"}, (64, 64)),
        ({"avg_bits": 3.5}, (32, 32)),
        ({"avg_bits": 2.6}, (32, 64)),
        ({"target_compression": 8.0}, (32, 32)),
        ({"target_compression": 11.0}, (32, 64)),
        ({"max_wer_increase": 1.0}, (32, 64)),
        ({"avg_bits": 2.6, "group_size": 128}, (128, 128)),
        ({"avg_bits": 3.5, "group_size": None}, (None, None)),
    ],
    ids=lambda each: str(each),
)
def test_groups_of_3_and_of_2_bits(changes, sizes):
    choices = Choices((), {}, CalibrateOptions("m", "d", "o", **changes))
    assert (choices.group(3), choices.group(2)) == sizes


def test_what_the_solver_prints_does_not_reach_stdout(capfd):
    with files.c_output_on_stderr():
        os.write(1, b"a remark")
    os.write(1, b"the JSON")
    told = capfd.readouterr()
    assert (told.out, told.err) == ("the JSON", "a remark")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"avg_bits": 3.0, "target_compression": 8.0}, "use only one of --avg-bits, --target-compression"),
        ({"avg_bits": 3.0, "scheme": "w4a8"}, "--avg-bits chooses the bits of the weights"),
        ({"max_wer_increase": 1.0, "max_samples": 1}, "holds out half of the recordings"),
        ({"target_compression": 40.0}, r"out of reach: with 2 bits everywhere this model is about 1\d\.\d\d times"),
        ({"avg_bits": 2.0}, r"--avg-bits 2 is out of reach: 2 bits everywhere are 2\.\d\d with scales"),
        ({"threshold": float("nan")}, "--threshold is nan; it must be a finite number"),
    ],
    ids=["two limits", "a scheme as well", "one recording", "too small", "too few bits", "no threshold"],
)
def test_limits_that_cannot_be_are_told(options, sentence, tmp_path):
    given = {"method": "max", "max_samples": 2} | options
    with pytest.raises(InputError, match=sentence):
        calibrate(CalibrateOptions(MODEL, SPEECH, str(tmp_path / "q"), **given))
    assert not (tmp_path / "q").exists()
