"""What every rounding promises, tested for each file of the folder."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant import registry
from stablequant.grid import symmetric_scale, weight_grid
from stablequant.rounding import nearest

METHODS = registry.names("rounding")
every_method = pytest.mark.parametrize("method", METHODS)
grids = st.sampled_from([weight_grid(bits) for bits in range(2, 9)])


def weight(seed, rows=4, columns=30):
    return torch.from_numpy(np.random.default_rng(seed).standard_t(3, (rows, columns)).astype(np.float32))


def round_weight(method, w, grid, clip=1.0):
    scale = symmetric_scale(w.abs().amax(1) * clip, grid)
    return registry.get("rounding", method).round_weight(w, scale, grid)


@every_method
@given(seed=st.integers(0, 99), grid=grids, clip=st.sampled_from([1.0, 0.5]))
def test_codes_are_on_the_grid_with_the_scale_that_was_given(method, seed, grid, clip):
    w = weight(seed)
    found = round_weight(method, w, grid, clip)
    assert found.codes.dtype == torch.int8
    assert found.codes.shape == w.shape
    assert int(found.codes.min()) >= grid.low
    assert int(found.codes.max()) <= grid.high
    assert torch.equal(found.scale, symmetric_scale(w.abs().amax(1) * clip, grid))
    assert torch.equal(found.dequantize(), found.codes.float() * found.scale[:, None])


@every_method
@given(seed=st.integers(0, 99), grid=grids)
def test_a_weight_that_is_on_the_grid_already_stays(method, seed, grid):
    codes = np.random.default_rng(seed).integers(grid.low, grid.high + 1, (4, 30))
    codes[:, 0] = grid.high
    w = torch.from_numpy(codes.astype(np.float32)) * torch.tensor([1.0, 0.5, 2.0, 0.125])[:, None]
    found = registry.get("rounding", method).round_weight(w, torch.tensor([1.0, 0.5, 2.0, 0.125]), grid)
    assert np.array_equal(found.codes.numpy(), codes)


@every_method
def test_the_float_weight_is_left_as_it_was_and_the_result_is_the_same_twice(method):
    w = weight(0)
    before = w.clone()
    first, second = (round_weight(method, w, weight_grid(4)) for _ in range(2))
    assert torch.equal(w, before)
    assert torch.equal(first.codes, second.codes)


@every_method
def test_rows_are_rounded_apart_and_zeros_stay_zero(method):
    w = weight(0)
    w[2] = 0
    found = round_weight(method, w, weight_grid(8))
    assert not found.codes[2].any()
    assert torch.equal(round_weight(method, w[:2], weight_grid(8)).codes, found.codes[:2])


@given(seed=st.integers(0, 99), grid=grids)
def test_nearest_is_never_more_than_half_a_step_off(seed, grid):
    w = weight(seed)
    scale = symmetric_scale(w.abs().amax(1), grid)
    error = (nearest.round_weight(w, scale, grid).dequantize().double() - w.double()).abs()
    assert (error <= 0.5 * scale[:, None].double() * (1 + 1e-6)).all()
