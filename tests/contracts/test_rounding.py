"""What every rounding promises, tested for each file of the folder, on every format."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.foundation import registry
from stablequant.quantization.ranges import max as largest
from stablequant.quantization.weight_formats.base import weight_format

METHODS = registry.names("rounding")
FORMATS = tuple(weight_format(bits) for bits in range(2, 9)) + tuple(
    weight_format(bits, 8, asymmetric) for bits in (2, 3, 4) for asymmetric in (False, True)
)
SPARSE = tuple(weight_format(bits, 8 if bits < 5 else None, bits < 4, "2:4") for bits in (2, 3, 4, 8))
every_method = pytest.mark.parametrize("method", METHODS)
formats = st.sampled_from(FORMATS + SPARSE)


def weight(seed, rows=4, columns=32):
    return torch.from_numpy(np.random.default_rng(seed).standard_t(3, (rows, columns)).astype(np.float32))


def points(w, format):
    """The grid that calibration gives a weight."""
    return format.fit(w, largest.weights)


def grams(seed, columns=32, frames=80):
    """Both halves' matrices of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(
        (rng.standard_normal((frames, columns)) @ rng.standard_normal((columns, columns))) / 6
    ).float()
    return x[::2].T @ x[::2], x[1::2].T @ x[1::2]


def round_weight(method, w, on, seed=0):
    [found] = registry.get("rounding", method).round_weight(w, [on], grams(seed, w.shape[1]))
    return found


@every_method
@given(seed=st.integers(0, 99), format=formats)
def test_codes_are_int8_and_on_the_lattice_that_was_given(method, seed, format):
    w = weight(seed)
    on = points(w, format)
    found = round_weight(method, w, on, seed)
    assert found.codes.dtype == torch.int8
    assert found.codes.shape == w.shape
    assert torch.equal(found.scale, on.scale)
    kept = torch.ones_like(w, dtype=torch.bool) if format.sparsity is None else found.grid.kept
    assert found.grid is on or format.sparsity is not None
    assert found.format == format
    assert not found.codes[~kept].any()
    steps = ((found.codes.double() - on.of().offset.double()) / on.of().step.double())[kept]
    assert torch.equal(steps, steps.round())
    assert 0 <= float(steps.min()) <= float(steps.max()) <= format.top


@every_method
@given(seed=st.integers(0, 99), format=formats)
def test_a_weight_that_is_on_the_lattice_already_stays(method, seed, format):
    on = points(weight(seed), format)
    w = round_weight("nearest", weight(seed), on).dequantize()
    assert torch.equal(round_weight(method, w, on, seed).dequantize(), w)


@every_method
def test_the_float_weight_is_left_as_it_was_and_the_result_is_the_same_twice(method):
    w = weight(0)
    before = w.clone()
    first, second = (round_weight(method, w, points(w, weight_format(4, 8, True))) for _ in range(2))
    assert torch.equal(w, before)
    assert torch.equal(first.codes, second.codes)


@every_method
@given(seed=st.integers(0, 99))
@pytest.mark.parametrize("sparsity", [None, "2:4"])
def test_several_lattices_at_once_give_what_each_gives_alone(method, sparsity, seed):
    w = weight(seed)
    grids = [points(w, weight_format(bits, 8, True, sparsity)) for bits in (4, 3, 2)]
    together = registry.get("rounding", method).round_weight(w, grids, grams(seed))
    assert [each.format for each in together] == [on.format for on in grids]
    for on, found in zip(grids, together, strict=True):
        assert torch.equal(found.codes, round_weight(method, w, on, seed).codes)
        assert torch.equal(found.scale, on.scale)


@every_method
def test_zeros_stay_zero(method):
    w = weight(0)
    w[2] = 0
    found = round_weight(method, w, points(w, weight_format(8)))
    assert not found.codes[2].any()


@every_method
@pytest.mark.parametrize("dead", [0, 7, 30], ids=lambda dead: f"{dead} silent inputs")
def test_inputs_that_are_silent_do_no_harm(method, dead):
    w = weight(3)
    gram = tuple(half.clone() for half in grams(3))
    for half in gram:
        half[:dead] = 0
        half[:, :dead] = 0
    on = points(w, weight_format(3, 8))
    [found] = registry.get("rounding", method).round_weight(w, [on], gram)
    assert found.dequantize().isfinite().all()


@given(seed=st.integers(0, 99), format=st.sampled_from(FORMATS))
def test_nearest_leaves_no_point_of_the_lattice_nearer(seed, format):
    w = weight(seed)
    on = points(w, format)
    error = (round_weight("nearest", w, on).dequantize().double() - w.double()).abs()
    at = on.of()
    for code in range(format.top + 1):
        there = (at.offset.double() + at.step.double() * code) * on.scale[:, None].double()
        assert (error <= (there - w.double()).abs() * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_compensated_rounding_has_less_error_in_the_output_than_nearest(bits):
    w, gram = weight(1, 32, 96), grams(1, 96, 2000)
    on = points(w, weight_format(bits, 32, True) if bits < 8 else weight_format(8))

    def error(method):
        [found] = registry.get("rounding", method).round_weight(w, [on], gram)
        wrong = found.dequantize() - w
        return float(((wrong @ (gram[0] + gram[1])) * wrong).sum())

    assert error("compensated") < 0.7 * error("nearest")
