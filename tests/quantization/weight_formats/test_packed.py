import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.quantization.numerics import bitpack, weight_grid
from stablequant.quantization.ranges import max as largest
from stablequant.quantization.weight_formats import packed as dense
from stablequant.quantization.weight_formats.base import weight_format

PACKED = tuple(
    weight_format(bits, group, asymmetric)
    for bits in (4, 3, 2)
    for group in (None, 8, 32)
    for asymmetric in (False, True)
)
packed = st.sampled_from(PACKED)


def fit(w, format, importance=None):
    return format.fit(w, largest.weights, importance)


def weight(seed, rows=5, columns=50):
    rng = np.random.default_rng(seed)
    w = rng.standard_t(3, (rows, columns)) * 10.0 ** rng.integers(-6, 6, (rows, 1)) + rng.standard_normal() / 3
    return torch.from_numpy(w.astype(np.float32))


@given(seed=st.integers(0, 999), format=packed)
def test_expanding_gives_the_codes_of_the_engine_exactly(seed, format):
    """Against integers of numpy that cannot wrap."""
    w = weight(seed)
    on = fit(w, format)
    codes = dense.contract(on.nearest(w), on)
    size, columns = format.size(w.shape[1]), w.shape[1]
    step, offset = (np.repeat(x.numpy().astype(np.int64), size, 1)[:, :columns] for x in (on.steps, on.offsets))
    exact = offset + step * codes.numpy().astype(np.int64)
    assert np.abs(exact).max() <= weight_grid.LARGEST
    assert np.array_equal(dense.expand(codes, on.steps, on.offsets, size).numpy(), exact)
    assert np.array_equal(on.nearest(w).numpy(), exact)
    assert int(codes.max()) <= format.top


@given(bits=st.sampled_from([2, 3, 4]), count=st.integers(1, 200), seed=st.integers(0, 99))
def test_packing_is_dense_and_undone(bits, count, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8))
    packed = bitpack.pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == bitpack.packed_bytes(count, bits) <= count * bits / 8 + 2
    assert torch.equal(bitpack.unpack(packed, bits, count), codes)


@given(seed=st.integers(0, 99), format=packed)
def test_offsets_that_are_not_stored_follow_from_the_steps(seed, format):
    on = fit(weight(seed), format)
    if not format.asymmetric:
        assert torch.equal(dense.symmetric_offsets(on.steps, format), on.offsets)


@pytest.mark.parametrize("format", PACKED, ids=str)
def test_steps_that_leave_int8_are_a_problem(format):
    w = weight(0)
    on = fit(w, format)
    stored = format.store(on.hold(on.nearest(w)), w.shape)
    for wrong in (0, 255):
        damaged = {**stored, "steps": torch.full_like(stored["steps"], wrong)}
        assert "do not expand to int8" in format.problem(damaged, w.shape)


def error(w, format, importance=None):
    on = fit(w, format, importance)
    wrong = (on.nearest(w).double() * on.scale[:, None].double() - w.double()).square()
    return float((wrong * (1.0 if importance is None else importance.double())).sum() / w.double().square().sum())


def gaussian(seed=0, rows=16, columns=512):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_smaller_groups_and_offsets_lose_less(bits):
    w = gaussian()
    assert error(w, weight_format(bits, 32)) < error(w, weight_format(bits, 128)) < error(w, weight_format(bits))
    assert error(w, weight_format(bits, 32, True)) < error(w, weight_format(bits, 32))


@pytest.mark.parametrize(("bits", "best"), [(4, 0.01154), (3, 0.03744), (2, 0.1188)])
def test_a_gaussian_row_loses_little_more_than_the_best_uniform_quantizer(bits, best):
    """Max (1960), table II: the least noise of 2^bits equal steps; 4 symmetric bits use 15 of 16 codes."""
    assert best * 0.9 < error(gaussian(), weight_format(bits)) < best * 1.2


@pytest.mark.parametrize("format", PACKED, ids=str)
def test_importance_moves_the_error_to_where_it_does_not_matter(format):
    w = gaussian(1)
    importance = torch.where(torch.arange(512) % 8 == 0, 100.0, 1.0)
    on = fit(w, format, importance)
    plain = fit(w, format)

    def weighted(x):
        return float(((x.nearest(w).float() * x.scale[:, None] - w).square() * importance).sum())

    assert weighted(on) < weighted(plain)


@pytest.mark.parametrize("format", PACKED, ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0, -3e-30, 1e30], ids=str)
def test_rows_of_one_value_are_finite_and_near(format, value):
    w = torch.full((2, 40), value)
    on = fit(w, format)
    found = on.nearest(w).float() * on.scale[:, None]
    assert torch.allclose(found, w, rtol=0.2, atol=0.0) or value == 0.0
    assert found.isfinite().all()


@given(seed=st.integers(0, 99), format=packed)
def test_rows_are_fitted_apart(seed, format):
    w = weight(seed)
    whole, first = fit(w, format), fit(w[:2], format)
    assert torch.equal(whole.rows(slice(0, 2)).steps, first.steps)
    assert torch.equal(weight_grid.joined([first, fit(w[2:], format)]).offsets, whole.offsets)


def test_columns_of_a_lattice_round_as_they_do_in_the_whole():
    w = weight(4)
    on = fit(w, weight_format(3, 8, True))
    assert torch.equal(on.columns(slice(5, 21)).nearest(w[:, 5:21]), on.nearest(w)[:, 5:21])
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(on.columns(order).nearest(w[:, order]), on.nearest(w)[:, order])
