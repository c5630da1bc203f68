import functools
import itertools
import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.foundation.errors import InputError
from stablequant.models.families.sites import find_sites
from stablequant.quantization.numerics.integer_grid import affine, fake_quantize, unsigned_grid
from stablequant.quantization.observation import collect, histogram
from stablequant.quantization.observation.histogram import FINEST, HALF, HALF_LOG2, coarse, histogram_of, merge

# Every float32 that is a number, so magnitudes from 1e-45 to 3e38, both zeros and subnormals.
any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
ordinary = st.floats(-10, 10, width=32)
arrays = st.one_of(
    st.lists(any_float, min_size=1, max_size=30),
    st.lists(ordinary, min_size=1, max_size=60),
    st.lists(st.floats(-5, -1, width=32), min_size=1, max_size=5),
    st.just([0.0]),
)


def of(values):
    return histogram_of(torch.tensor(values, dtype=torch.float32))


def same(a, b):
    assert (a.exponent, a.minimum, a.maximum) == (b.exponent, b.minimum, b.maximum)
    assert np.array_equal(a.counts, b.counts)


def reference(values, exponent):
    """Counts of floor(x / 2^exponent), in exact integers."""
    counts = np.zeros(2 * HALF, np.int64)
    for value in values:
        numerator, denominator = value.as_integer_ratio()
        scaled = (numerator << max(0, -exponent), denominator << max(0, exponent))
        counts[scaled[0] // scaled[1] + HALF] += 1
    return counts


@given(arrays)
def test_counts_are_those_of_exact_arithmetic(values):
    values = [float(np.float32(value)) for value in values]
    found = of(values)
    assert np.array_equal(found.counts, reference(values, found.exponent))
    assert (found.minimum, found.maximum) == (min(values), max(values))
    assert found.total == len(values)


@given(arrays)
def test_the_bins_are_as_fine_as_they_can_be(values):
    found, largest = of(values), max(abs(np.float32(value)) for value in values)
    assert largest <= HALF * found.width
    assert found.exponent == FINEST or largest >= HALF * found.width / 2


@given(arrays, arrays)
def test_two_halves_merged_equal_the_whole_bit_for_bit(a, b):
    same(merge(of(a), of(b)), of(a + b))


@given(arrays, arrays, arrays)
def test_the_order_of_merging_changes_nothing(a, b, c):
    for order in itertools.permutations((a, b, c)):
        same(functools.reduce(merge, map(of, order)), of(a + b + c))
    same(merge(of(a), merge(of(b), of(c))), merge(merge(of(a), of(b)), of(c)))


@given(arrays)
def test_merging_with_nothing_changes_nothing(values):
    same(merge(of(values), histogram.empty()), of(values))
    same(merge(histogram.empty(), of(values)), of(values))


def test_chunks_and_layout_of_a_long_tensor_change_nothing():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 500_001)).astype(np.float32))
    whole = histogram_of(x)
    same(histogram_of(x.T), whole)
    same(functools.reduce(merge, (histogram_of(row) for row in x)), whole)
    assert np.array_equal(whole.counts, np.histogram(x.double().numpy(), np.arange(-HALF, HALF + 1) * whole.width)[0])


def test_its_size_does_not_depend_on_the_amount_of_audio():
    assert of([0.5]).counts.nbytes == merge(of([1e-30] * 9), of([3e38])).counts.nbytes == 2 * HALF * 8


def test_there_are_at_least_32_bins_for_each_step_of_an_8_bit_grid():
    assert 2 ** (HALF_LOG2 - 1) >= 16 * 255


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_value_that_is_not_finite_is_an_error(bad, place):
    values = [1.0, -2.0]
    values.insert(place, bad)
    with pytest.raises(ValueError, match="not finite"):
        of(values)


def test_the_noise_of_a_grid_is_the_mean_squared_error_of_the_values():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(20_000).astype(np.float32))
    grids = [affine(low, high, unsigned_grid(6)) for low, high in ((-4.0, 4.0), (-1.0, 2.0), (0.0, 3.0))]
    found = histogram_of(x).noise(*(np.array(column, float) for column in zip(*grids, strict=True)), unsigned_grid(6))
    exact = [float((fake_quantize(x, *each, unsigned_grid(6)) - x).double().square().mean()) for each in grids]
    assert found == pytest.approx(exact, rel=1e-2)


def test_the_power_is_the_mean_square():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(20_000).astype(np.float32))
    assert histogram_of(x).power() == pytest.approx(float(x.double().square().mean()), rel=1e-3)


@given(arrays, st.sampled_from([2, 7, 128]))
def test_the_coarse_form_has_the_finest_bins_that_are_few_enough(values, bins):
    fine = of(values)
    few = coarse(fine, bins)
    assert (few.minimum, few.maximum) == (fine.minimum, fine.maximum)
    assert np.array_equal(few.counts, reference(values, few.exponent))

    def span(exponent):
        index = np.flatnonzero(reference(values, exponent))
        return index[-1] - index[0] + 1

    assert span(few.exponent) <= bins
    assert few.exponent == fine.exponent or span(few.exponent - 1) > bins


@given(arrays)
def test_nothing_lies_outside_the_extremes(values):
    found = of(values)
    assert found.share_outside(found.minimum, found.maximum) == 0.0
    same(found.within(found.minimum, found.maximum), found)


@given(st.lists(ordinary, min_size=1, max_size=60), ordinary, ordinary)
def test_the_share_outside_a_range_is_exact_to_the_width_of_a_bin(values, a, b):
    low, high = min(a, b), max(a, b)
    found, x = of(values), np.array(values, np.float32).astype(float)
    outside = [np.mean((x < low - slack) | (x > high + slack)) for slack in (found.width, -found.width)]
    assert outside[0] <= found.share_outside(low, high) <= outside[1]
    assert found.within(low, high).total == pytest.approx(len(values) * (1 - found.share_outside(low, high)))


# ---- one pass over the recordings


@pytest.fixture(scope="module")
def model():
    return tiny.prepared(num_hidden_layers=1)


@pytest.fixture(scope="module")
def found(model):
    return tuple(site for site in find_sites(model) if site.reason is None)


def gathered_on(model, found, seeds, earlier=None):
    def forward(seed):
        with torch.inference_mode():
            model(torch.from_numpy(tiny.wave(seed, 2000 + 700 * seed))[None])

    *_, last = collect.histograms(model, found, forward, seeds, earlier)
    return last


@pytest.fixture(scope="module")
def whole(model, found):
    return gathered_on(model, found, (0, 1, 2))


def test_every_site_is_seen_and_the_order_of_recordings_changes_nothing(model, found, whole):
    assert set(whole) == {site.name for site in found}
    other = gathered_on(model, found, (2, 0, 1))
    for name, each in whole.items():
        same(each, other[name])


def test_going_on_from_earlier_statistics_equals_the_whole(model, found, whole):
    earlier = gathered_on(model, found, (0, 1))
    kept = {name: each.counts.copy() for name, each in earlier.items()}
    continued = gathered_on(model, found, (2,), earlier)
    for name, each in whole.items():
        same(each, continued[name])
        assert np.array_equal(earlier[name].counts, kept[name])


def test_a_site_is_counted_as_often_as_it_has_input_values(model, found, whole):
    inputs = [tiny.site_inputs(model, list(whole), tiny.wave(seed, 2000 + 700 * seed)) for seed in (0, 1, 2)]
    for name, each in whole.items():
        same(each, functools.reduce(merge, (histogram_of(seen[name]) for seen in inputs)))
        assert each.total == sum(seen[name].numel() for seen in inputs)  # so nothing was padded


def test_watching_leaves_the_model_as_it_was(model, found):
    list(collect.histograms(model, found, lambda x: model(torch.zeros(1, 1000) + x), [1.0]))
    assert all(not module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ZeroDivisionError):
        list(collect.histograms(model, found, lambda x: 1 / x, [0]))
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_values_that_are_not_finite_are_told_with_their_site(model, found):
    with pytest.raises(InputError, match=r"at \S*conv_layers\.1\.conv are not finite"), torch.inference_mode():
        list(collect.histograms(model, found, model, [torch.full((1, 1000), math.nan)]))


def test_a_site_that_no_recording_reaches_is_absent(model, found):
    *_, gathered = collect.histograms(model, found, model.lm_head, [torch.ones(1, 32)])
    assert set(gathered) == {"lm_head"}
