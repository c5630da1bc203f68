"""What every range method promises, tested for each file of the folder."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from stablequant.foundation import registry
from stablequant.quantization.numerics.integer_grid import (
    affine,
    quantize_weight,
    signed_grid,
    symmetric_scale,
    unsigned_grid,
)
from stablequant.quantization.observation.histogram import histogram_of
from stablequant.quantization.ranges import max as maximum
from stablequant.quantization.ranges import mse, percentile

METHODS = registry.names("ranges")
GRIDS = tuple(unsigned_grid(bits) for bits in (8, 6, 4, 2))
WEIGHT_GRIDS = tuple(signed_grid(bits) for bits in (8, 6, 4, 2))
values = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=80)
seeds = st.integers(0, 99)
every_method = pytest.mark.parametrize("method", METHODS)


def of(numbers):
    return histogram_of(torch.as_tensor(numbers, dtype=torch.float32))


def heavy(seed, size=3000):
    """Values with a long tail on one side, as activations after GELU have."""
    rng = np.random.default_rng(seed)
    return torch.nn.functional.gelu(torch.from_numpy(rng.standard_t(2, size).astype(np.float32)))


def covered(method, seen, grid):
    """The range that the grid of a method covers: it always holds 0."""
    low, high = registry.get("ranges", method).activations(seen, grid)
    return min(0.0, low), max(0.0, high)


def test_the_methods_of_the_design_are_there():
    assert {"max", "percentile", "mse"} <= set(METHODS)


@every_method
@given(values=values, grid=st.sampled_from(GRIDS))
def test_a_range_is_finite_and_inside_the_extremes(method, values, grid):
    seen = of(values)
    low, high = covered(method, seen, grid)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= high
    assert min(0.0, seen.minimum) - seen.width <= low
    assert high <= max(0.0, seen.maximum) + seen.width


@every_method
@given(seed=seeds, power=st.integers(-20, 20), grid=st.sampled_from(GRIDS))
def test_a_louder_input_has_a_range_louder_by_as_much(method, seed, power, grid):
    x = heavy(seed)
    low, high = covered(method, of(x), grid)
    factor = 2.0**power
    assert covered(method, of(x * factor), grid) == (low * factor, high * factor)


@every_method
@given(seed=seeds)
def test_the_order_of_the_values_does_not_matter(method, seed):
    x = heavy(seed)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    assert covered(method, of(x), GRIDS[0]) == covered(method, of(shuffled), GRIDS[0])


@every_method
@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"a{grid.bits}")
def test_silence_has_an_empty_range(method, grid):
    assert covered(method, of([0.0] * 50), grid) == (0.0, 0.0)


@every_method
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-3, -1e5])
def test_one_value_that_repeats_is_represented(method, value):
    low, high = covered(method, of([value] * 50), GRIDS[0])
    scale, zero_point = affine(low, high, GRIDS[0])
    code = min(255, max(0, round(value / scale) + zero_point))
    assert (code - zero_point) * scale == pytest.approx(value, rel=0.01)


@every_method
@pytest.mark.parametrize("grid", WEIGHT_GRIDS, ids=lambda grid: f"w{grid.bits}")
@given(seed=seeds)
def test_each_row_of_weights_has_a_limit_up_to_its_largest(method, grid, seed):
    weight = torch.from_numpy(np.random.default_rng(seed).standard_t(3, (5, 30)).astype(np.float32))
    limit = registry.get("ranges", method).weights(weight, grid)
    assert limit.shape == (5,)
    assert (limit > 0).all()
    assert (limit <= weight.abs().amax(1)).all()


@every_method
@given(seed=seeds, power=st.integers(-20, 20))
def test_limits_of_weights_scale_with_them_row_by_row(method, seed, power):
    weight = torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 30)).astype(np.float32))
    factors = torch.tensor([1.0, 2.0**power, 0.5, 2.0])
    weights = registry.get("ranges", method).weights
    grid = signed_grid(4)
    assert torch.equal(weights(weight * factors[:, None], grid), weights(weight, grid) * factors)
    assert torch.equal(weights(-weight.flip(1), grid), weights(weight, grid))


@every_method
def test_a_row_of_zeros_has_the_limit_zero(method):
    weight = torch.stack([torch.zeros(8), torch.ones(8)])
    assert registry.get("ranges", method).weights(weight, signed_grid(8))[0] == 0.0


def noise(seen, limits, grid):
    scale, zero_point = affine(*limits, grid)
    return float(seen.noise(np.array([scale]), np.array([float(zero_point)]), grid)[0])


@given(seed=seeds, grid=st.sampled_from(GRIDS))
def test_mse_never_has_more_noise_than_max(seed, grid):
    seen = of(heavy(seed))
    assert noise(seen, mse.activations(seen, grid), grid) <= noise(seen, maximum.activations(seen, grid), grid)


@given(seed=seeds, bits=st.sampled_from([2, 4, 8]))
def test_mse_never_rounds_a_row_of_weights_worse_than_max(seed, bits):
    weight = torch.from_numpy(np.random.default_rng(seed).standard_t(3, (6, 50)).astype(np.float32))
    errors = []
    for method in (mse, maximum):
        scale = symmetric_scale(method.weights(weight, signed_grid(bits)), signed_grid(bits))
        rounded = quantize_weight(weight, scale, signed_grid(bits)).double() * scale[:, None].double()
        errors.append((rounded - weight.double()).square().sum(1))
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()


def test_mse_clips_an_outlier_that_max_pays_for():
    seen = of(torch.cat([torch.linspace(-1, 1, 200_000), torch.tensor([50.0])]))
    assert mse.activations(seen, unsigned_grid(4))[1] < 5.0
    assert maximum.activations(seen, unsigned_grid(4))[1] == 50.0
    best = noise(seen, mse.activations(seen, unsigned_grid(4)), unsigned_grid(4))
    assert best < 0.2 * noise(seen, (-1.0, 50.0), unsigned_grid(4))


def test_mse_is_near_the_best_of_all_ranges():
    seen, grid = of(heavy(5)), unsigned_grid(4)
    low, high = seen.minimum, seen.maximum
    best = min(
        noise(seen, (low * a, high * b), grid) for a in np.linspace(0, 1, 21) for b in np.geomspace(0.005, 1, 150)
    )
    assert noise(seen, mse.activations(seen, grid), grid) <= 1.02 * best


@given(seed=seeds, removed=st.sampled_from([0.0, 0.01, 0.1, 0.5, 3.0]))
def test_percentile_leaves_out_at_most_the_share_it_is_told(seed, removed):
    x = heavy(seed)
    low, high = percentile.activations(of(x), GRIDS[0], removed)
    outside = int(((x < low) | (x > high)).sum())
    assert outside <= removed / 100 * len(x)
    if removed >= 0.1:  # and nearly as many: the next smaller range by a bin would leave out more
        width = of(x).width
        assert int(((x < min(0.0, low + width)) | (x > high - width)).sum()) > removed / 100 * len(x) - 1
    assert of(x).share_outside(low, high) <= removed / 100


@given(values)
def test_percentile_that_removes_nothing_is_max(values):
    seen = of(values)
    assume(seen.maximum > seen.minimum)
    assert percentile.activations(seen, GRIDS[0], 0.0) == maximum.activations(seen, GRIDS[0])
