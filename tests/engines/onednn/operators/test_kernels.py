import platform

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stablequant.engines.onednn.operators import kernels


def codes(rng, rows, columns, bits=(8, 8)):
    """Activation codes (rows, columns) uint8 and weight codes (columns, columns + 1) int8, extremes included."""
    x = rng.integers(0, 2 ** bits[0], (rows, columns))
    w = rng.integers(1 - 2 ** (bits[1] - 1), 2 ** (bits[1] - 1), (columns + 1, columns))
    x.flat[0], w.flat[0] = 2 ** bits[0] - 1, 1 - 2 ** (bits[1] - 1)
    return x, w


def multiply(x, zero_point, w, **keywords):
    ones, zeros = torch.ones(len(w)), torch.zeros(len(w))
    weight = kernels.prepack(torch.from_numpy(w.astype(np.int8)), ones, zeros)
    return kernels.linear(torch.from_numpy(x.astype(np.uint8)), (1.0, zero_point), weight, **keywords)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 200), st.integers(0, 255))
def test_sums_are_those_of_integers(seed, rows, columns, zero_point):
    x, w = codes(np.random.default_rng(seed), rows, columns)
    expected = (x.astype(np.int64) - zero_point) @ w.T
    assert np.abs(expected).max() < 2**24  # so that float32 holds each of them
    assert np.array_equal(multiply(x, zero_point, w).numpy().astype(np.int64), expected)


@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_the_largest_sums_do_not_saturate(zero_point):
    x, w = np.full((2, 4096), 255), np.full((3, 4096), 127)
    w[1] = -127
    x[1] = 0
    expected = (x.astype(np.int64) - zero_point) @ w.T  # up to 4096 * 255 * 127, eight times 2^24
    found = multiply(x, zero_point, w).double().numpy()
    assert np.abs(found - expected).max() <= 2**-24 * np.abs(expected).max()


def test_scales_bias_gelu_and_requantization_follow_the_sum():
    rng = np.random.default_rng(0)
    x, w = codes(rng, 50, 64)
    scales = torch.from_numpy(rng.uniform(0.001, 0.02, 65).astype(np.float32))
    bias = torch.from_numpy(rng.standard_normal(65).astype(np.float32))
    weight = kernels.prepack(torch.from_numpy(w.astype(np.int8)), scales, bias)
    exact = torch.from_numpy((x.astype(np.int64) - 100) @ w.T).double() * scales.double() * 0.01 + bias.double()

    def run(**keywords):
        return kernels.linear(torch.from_numpy(x.astype(np.uint8)), (0.01, 100), weight, **keywords)

    assert (run().double() - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert (run(gelu=True).double() - F.gelu(exact)).abs().max() <= 1e-5 * exact.abs().max()
    assert torch.equal(run(dtype=torch.bfloat16), run().bfloat16())
    other = torch.from_numpy(rng.standard_normal((50, 65)).astype(np.float32))
    plus = kernels.linear_plus(torch.from_numpy(x.astype(np.uint8)), (0.01, 100), weight, other)
    assert (plus.double() - exact - other).abs().max() <= 1e-5 * exact.abs().max()
    requantized = run(gelu=True, requantize=(0.05, 9))
    assert requantized.dtype == torch.uint8
    steps = F.gelu(exact) / 0.05 + 9
    expected = steps.round().clamp(0, 255)
    near_a_tie = ((steps - steps.floor()) - 0.5).abs() < 1e-3
    assert torch.equal(requantized.double()[~near_a_tie], expected[~near_a_tie])
    assert (requantized.double() - expected).abs().max() <= 1
    assert (expected == 255).any()
    assert (expected < 9).any()


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9), st.integers(0, 20), st.integers(0, 3))
def test_windows_are_those_of_a_convolution(kernel, stride, channels, longer, offset):
    memory = torch.arange((offset + kernel + longer) * channels).view(-1, channels)
    x = memory[offset:]
    found = kernels.windows(x, kernel, stride)
    expected = x.unfold(0, kernel, stride).transpose(1, 2).flatten(1)
    assert torch.equal(found, expected)
    assert found.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("kernel", "stride", "channels"), [(3, 2, 32), (16, 1, 16), (10, 5, 1), (5, 1, 3), (128, 1, 48)]
)
def test_overlapping_windows_multiply_as_copied_ones(kernel, stride, channels):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (300, channels)).astype(np.uint8))
    w = rng.integers(-127, 128, (24, kernel * channels))
    scales, zeros = torch.full((24,), 1e-3), torch.zeros(24)
    weight = kernels.prepack(torch.from_numpy(w.astype(np.int8)), scales, zeros)
    view = kernels.windows(x, kernel, stride)
    found = kernels.linear(view, (1.0, 37), weight)
    expected = (view.numpy().astype(np.int64) - 37) @ w.T * float(scales[0])
    assert np.abs(found.double().numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


OTHER_CPU = """
import sys
import torch
from stablequant.engines.onednn.operators import kernels
torch.manual_seed(0)
x = torch.randint(0, 256, (9, 700), dtype=torch.uint8)
x[0] = 255
codes = torch.randint(-127, 128, (6, 700), dtype=torch.int8)
codes[0] = 127
weight = kernels.prepack(codes, torch.full((6,), 0.01), torch.arange(6.0))
exact = (x.double() - 37) @ codes.double().T * 0.01 * 0.5 + torch.arange(6.0).double()
found = kernels.linear(x, (0.5, 37), weight)
plus = kernels.linear_plus(x, (0.5, 37), weight, torch.ones(9, 6))
codes = kernels.linear(x, (0.5, 37), weight, gelu=True, requantize=(3.0, 4))
steps = torch.nn.functional.gelu(exact) / 3 + 4
assert (found - exact).abs().max() <= 1e-6 * exact.abs().max()
assert (plus - 1 - exact).abs().max() <= 1e-6 * exact.abs().max()
assert (codes.double() - steps.clamp(0, 255)).abs().max() <= 0.501
assert kernels.linear(x, (0.5, 37), weight, dtype=torch.bfloat16).dtype == torch.bfloat16
print(kernels.way())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN can be held to older instructions on x86-64 only")
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_products_are_exact_on_older_cpus(isa, shell):
    done = shell.python(OTHER_CPU, env={"ONEDNN_MAX_CPU_ISA": isa})  # read at the first product
    assert done.returncode == 0, done.stderr
    if "avx512_vnni" in torch.cpu.get_capabilities() or "VNNI" not in isa:
        assert done.stdout.strip() == ("exact" if "VNNI" in isa else "halves")


def test_products_are_exact_without_a_kernel(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "way", lambda: "float")
    exec(OTHER_CPU, {})
    assert capsys.readouterr().out == "float\n"


def test_a_missing_operator_is_noticed(monkeypatch):
    def missing(*_):
        raise NotImplementedError

    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", missing)
    assert kernels.way.__wrapped__() == "float"


@given(st.integers(1, 10**6))
def test_round_numbers_of_rows_are_few_and_near(n):
    rows = kernels.round_rows(n)
    assert n <= rows <= max(n, 1.07 * n)
    assert kernels.round_rows(rows) == rows
    assert len({kernels.round_rows(each) for each in range(n, min(2 * n, n + 5000))}) <= 17


@pytest.mark.parametrize("room", [0, 2, 40])
def test_rounded_rows_are_a_view_where_memory_goes_on(room):
    memory = torch.arange((33 + room) * 3.0).view(-1, 3)
    x = memory[:33]
    found = kernels.rounded(x)
    assert found.shape == (34, 3)
    assert torch.equal(found[:33], x)
    assert (found.data_ptr() == x.data_ptr()) == (room > 0)
    assert kernels.rounded(found) is found
