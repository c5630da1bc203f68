import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.quantization.numerics import integer_grid as grid
from stablequant.quantization.numerics.integer_grid import affine, signed_grid, unsigned_grid
from stablequant.quantization.weight_formats.rows import INT8

BITS = range(2, 9)
ACTIVATIONS = tuple(unsigned_grid(bits) for bits in BITS)
WEIGHTS = tuple(signed_grid(bits) for bits in BITS)
finite = st.floats(-1e6, 1e6, width=32)
sizes = st.sampled_from(
    [
        1,
        2,
        63,
        grid.CHUNK - 1,
        grid.CHUNK,
        grid.CHUNK + 1,
        2 * grid.CHUNK + 5,
    ]
)


def noise(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size).astype(np.float32) * 3)


def reference(x, scale, zero_point, top):
    """The codes in numpy, each operation rounded to float32 once."""
    steps = x.numpy() * np.float32(1.0 / scale) + np.float32(zero_point + 0.5)
    assert steps.dtype == np.float32
    return np.clip(np.floor(steps), 0, top).astype(np.uint8)


@pytest.mark.parametrize("bits", BITS)
def test_the_number_of_codes(bits):
    assert (unsigned_grid(bits).low, unsigned_grid(bits).high) == (0, 2**bits - 1)
    assert (signed_grid(bits).low, signed_grid(bits).high) == (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("each", ACTIVATIONS, ids=lambda each: f"a{each.bits}")
def test_codes_are_those_of_numpy_float32(each):
    x = torch.cat([noise(5000), torch.tensor([0.0, -0.0, 1e30, -1e30, math.inf, -math.inf, 1e-40])])
    scale, zero_point = affine(-4.1, 7.3, each)
    assert np.array_equal(
        grid.quantize(x, scale, zero_point, each).numpy(), reference(x, scale, zero_point, each.high)
    )


@given(sizes, st.integers(0, 3))
def test_codes_do_not_depend_on_chunks(size, seed):
    x, each = noise(size, seed), unsigned_grid(8)
    scale, zero_point = affine(-5.0, 6.0, each)
    assert np.array_equal(grid.quantize(x, scale, zero_point, each).numpy(), reference(x, scale, zero_point, 255))


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(1, 2),
    "permuted": lambda x: x.permute(2, 0, 1),
    "sliced": lambda x: x[:, 1:-1, ::2],
    "rows from an offset": lambda x: x[1:],
    "transposed slice": lambda x: x[1:].transpose(1, 2),
    "expanded": lambda x: x[:1].expand(3, -1, -1),
    "one element": lambda x: x[:1, :1, :1],
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_do_not_depend_on_the_layout_of_memory(layout, monkeypatch):
    monkeypatch.setattr(grid, "CHUNK", 100)
    x, each = LAYOUTS[layout](noise((3, 20, 14))), unsigned_grid(8)
    scale, zero_point = affine(-5.0, 6.0, each)
    codes = grid.quantize(x, scale, zero_point, each)
    assert codes.dtype == torch.uint8
    assert np.array_equal(codes.numpy(), reference(x.contiguous(), scale, zero_point, 255))


def test_codes_keep_the_memory_order_of_a_dense_tensor():
    x = noise((3, 20, 14)).transpose(1, 2)
    assert grid.quantize(x, 0.1, 0, unsigned_grid(8)).stride() == x.stride()


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("order", ["contiguous", "transposed"])
def test_codes_into_a_tensor_of_ones_own_whatever_its_order(layout, order):
    x, each = LAYOUTS[layout](noise((3, 20, 14))), unsigned_grid(8)
    out = torch.empty(x.shape, dtype=torch.uint8)
    if order == "transposed":
        out = out.transpose(1, 2).contiguous().transpose(1, 2)
    grid.quantize(x, 0.1, 7, each, out)
    assert np.array_equal(out.numpy(), reference(x.contiguous(), 0.1, 7, 255))


def test_quantizing_leaves_its_input_as_it_was():
    x = noise(1000)
    before = x.clone()
    grid.quantize(x, 0.1, 128, unsigned_grid(8))
    assert torch.equal(x, before)


def test_a_tensor_that_needs_a_gradient_can_be_quantized():
    x = noise(10).requires_grad_()
    assert torch.equal(
        grid.quantize(x, 0.1, 128, unsigned_grid(8)),
        grid.quantize(x.detach(), 0.1, 128, ACTIVATIONS[-1]),
    )


@given(finite, finite, st.sampled_from(ACTIVATIONS))
def test_zero_is_exact_on_every_grid(a, b, each):
    scale, zero_point = affine(min(a, b), max(a, b), each)
    assert grid.fake_quantize(torch.zeros(1), scale, zero_point, each).item() == 0.0
    assert each.low <= zero_point <= each.high


@given(finite, finite, st.sampled_from(ACTIVATIONS))
def test_the_range_is_covered_to_half_a_step(a, b, each):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero_point = affine(min(a, b), max(a, b), each)
    assert scale == np.float32(scale)
    slack = 0.5 * scale * (1 + 1e-4)
    if high > low and scale != 1.0:
        assert (each.low - zero_point) * scale <= low + slack
        assert (each.high - zero_point) * scale >= high - slack
        assert scale == pytest.approx((high - low) / each.high, rel=1e-6)


@given(
    st.floats(0.125, 2**20, width=32),
    st.floats(0.125, 2**20, width=32),
    st.sampled_from(ACTIVATIONS),
    st.integers(0, 9),
)
def test_inside_the_range_the_error_is_at_most_half_a_step(low, high, each, seed):
    scale, zero_point = affine(-low, high, each)
    inside = np.random.default_rng(seed).uniform(-low, high, 500).astype(np.float32)
    inside = torch.from_numpy(inside).clamp((each.low - zero_point) * scale, (each.high - zero_point) * scale)
    error = (grid.fake_quantize(inside, scale, zero_point, each).double() - inside.double()).abs().max()
    assert error <= 0.5 * scale * (1 + 1e-4)


@given(st.lists(finite, min_size=1, max_size=20), st.sampled_from(ACTIVATIONS))
def test_quantizing_twice_changes_nothing(values, each):
    x = torch.tensor(values)
    scale, zero_point = affine(min(values), max(values), each)
    once = grid.fake_quantize(x, scale, zero_point, each)
    assert torch.equal(grid.fake_quantize(once, scale, zero_point, each), once)


@given(st.lists(finite, min_size=2, max_size=20), st.sampled_from(ACTIVATIONS))
def test_codes_keep_the_order_of_the_values(values, each):
    codes = grid.quantize(torch.tensor(sorted(values)), *affine(min(values), max(values), each), each)
    assert (codes.int().diff() >= 0).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (5e-324, 5e-324), (-1e-45, 1e-45), (1.0, -1.0)])
def test_an_empty_range_gets_the_scale_one(low, high):
    # (1, -1) is no range: only 0 is in it. A plan never has one, but a range method might give it.
    scale, zero_point = affine(low, high, unsigned_grid(8))
    assert (scale, zero_point) == (1.0, 0) or low > high


@pytest.mark.parametrize("tiny", [1e-30, 1e-35, 1e-36, 1e-37, 1e-38, 1e-40, 1e-44, 1e-45])
def test_zero_is_exact_however_small_the_range_is(tiny):
    each = unsigned_grid(8)
    for low, high in ((0.0, tiny), (-tiny, tiny), (-tiny, 0.0)):
        scale, zero_point = affine(low, high, each)
        assert 1.0 / scale <= np.finfo(np.float32).max
        found = grid.fake_quantize(torch.tensor([0.0, low, high]), scale, zero_point, each)
        assert found[0] == 0.0
        assert (found.double() - torch.tensor([0.0, low, high]).double()).abs().max() <= max(tiny, scale)


@pytest.mark.parametrize("each", WEIGHTS, ids=lambda each: f"w{each.bits}")
def test_weights_are_rounded_to_the_nearest_point_of_a_grid_that_is_the_same_for_either_sign(each):
    weight = noise((6, 40))
    scale = grid.symmetric_scale(weight.abs().amax(1), each)
    codes = grid.quantize_weight(weight, scale, each)
    assert codes.dtype == torch.int8
    assert torch.equal(grid.quantize_weight(-weight, scale, each), -codes)
    assert int(codes.abs().max()) == each.high
    error = (codes.double() * scale[:, None].double() - weight.double()).abs()
    assert (error <= 0.5 * scale[:, None].double() * (1 + 1e-6)).all()


def test_a_row_of_zeros_has_the_scale_one_and_codes_of_zero():
    weight = torch.stack([torch.zeros(4), torch.ones(4)])
    scale = grid.symmetric_scale(weight.abs().amax(1), signed_grid(8))
    assert scale.tolist() == [1.0, float(np.float32(1) / np.float32(127))]
    assert grid.quantize_weight(weight, scale, signed_grid(8)).tolist() == [[0] * 4, [127] * 4]


def test_values_beyond_the_limit_are_clipped():
    assert grid.quantize_weight(torch.tensor([[-9.0, 9.0]]), torch.tensor([0.01]), signed_grid(4)).tolist() == [
        [-7, 7]
    ]


def test_a_quantized_weight_is_code_times_scale_of_its_row():
    codes = torch.tensor([[1, -2], [127, 0]], dtype=torch.int8)
    assert INT8.grid(torch.tensor([0.5, 2.0]), codes.shape[1]).hold(codes).dequantize().tolist() == [
        [0.5, -1.0],
        [254.0, 0.0],
    ]


def test_signal_to_noise_in_decibels():
    assert grid.sqnr_db(100.0, 1.0) == pytest.approx(20.0)
    assert grid.sqnr_db(0.0, 1.0) is None
    assert grid.sqnr_db(1.0, 0.0) is None
