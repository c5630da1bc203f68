import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.quantization.ranges import mse
from stablequant.quantization.weight_formats.base import parse

DENSE = ("w8", "w6", "w4", "w4g32", "w4g32z", "w3g32z", "w3", "w2g32", "w2g32z", "w2z")
TEXTS = tuple(f"{dense}-{sparsity}" for dense in DENSE for sparsity in ("2:4", "1:4", "4:8", "2:8"))
texts = st.sampled_from(TEXTS)


def weight(seed=0, rows=6, columns=64, shift=0.0):
    found = np.random.default_rng(seed).standard_normal((rows, columns)) + shift
    return torch.from_numpy(found.astype(np.float32))


def nearest(text, w, importance=None):
    grid = parse(text).fit(w, mse.weights, importance)
    return grid.hold(grid.nearest(w))


@given(texts, st.integers(0, 99), st.sampled_from([0.0, 3.0]))
def test_n_of_m_are_kept_and_the_others_are_exactly_zero(text, seed, shift):
    """Also where all weights of a group are far from zero, so that zero is no point of its grid."""
    w = weight(seed, shift=shift)
    found = nearest(text, w)
    kept, of = map(int, text.partition("-")[2].split(":"))
    blocks = found.grid.kept.view(6, -1, of)
    assert (blocks.sum(-1) == kept).all()
    assert not found.dequantize()[~found.grid.kept].any()
    read = found.format.stored.load(found.format.store(found, w.shape), w.shape)
    assert not read.dequantize()[~read.grid.kept].any()
    assert torch.equal(read.grid.kept, found.grid.kept)
    assert torch.equal(read.codes, found.codes)


def test_zero_need_not_be_a_point_of_the_grid():
    found = nearest("w2g32z-2:4", weight(shift=5.0))
    points = found.grid.of()
    every = points.offset[..., None] + points.step[..., None] * torch.arange(points.top + 1)
    assert (every != 0).all()
    assert (found.codes == 0).float().mean() == 0.5


@given(texts, st.integers(0, 99))
def test_the_largest_are_kept_and_the_nearest_points_are_taken(text, seed):
    w = weight(seed)
    found = nearest(text, w)
    of = int(text[-1])
    blocks, mask = w.abs().view(6, -1, of), found.grid.kept.view(6, -1, of)
    least = blocks.masked_fill(~mask, torch.inf).amin(-1)
    assert (blocks.masked_fill(mask, 0.0).amax(-1) <= least).all()
    assert torch.equal(found.codes, found.grid.of().nearest(w) * found.grid.kept)


def test_importance_decides_what_is_kept():
    loud = torch.where(torch.arange(64) % 4 < 2, 1e6, 1.0)
    found = nearest("w4g32z-2:4", weight(), loud)
    assert torch.equal(found.grid.kept, (loud > 1).expand(6, -1))


def test_the_grid_is_that_of_the_kept_weights():
    """Large ones have two values: a grid of four points that only had to fit them has next to no error."""
    w = weight(3, 8, 256) * 0.05
    w[:, ::4], w[:, 1::4] = 1.0, -0.9
    found = nearest("w2g64z-2:4", w)
    assert torch.allclose(found.dequantize()[found.grid.kept], w[found.grid.kept], atol=0.01)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        *(("w4-2:4", 3.0), ("w4-1:4", 1.5), ("w3-2:4", 2.5), ("w2-2:4", 2.0), ("w2-1:4", 1.0), ("w8-2:4", 5.0)),
        *(("w8-1:4", 2.5), ("w6-2:4", 5.0), ("w4-4:8", 3.5), ("w4-2:8", 1.75), ("w3-2:8", 1.5), ("w4g64z-2:4", 3.25)),
    ],
)
def test_bytes_are_those_of_kept_codes_and_positions(text, bits):
    """2:4 with 4-bit codes: 2 x 4 bits of codes and 2 x 2 of positions for 4 weights, 9.4 % of float32."""
    w = weight(0, 16, 1024)
    found = nearest(text, w)
    stored = found.format.store(found, w.shape)
    scales = 16 * 4 + (0 if text.startswith(("w8", "w6")) or "g64z" in text else 16)  # and one step a row
    assert (
        sum(each.nbytes for each in stored.values()) == found.format.bytes(16, 1024) == bits * w.numel() / 8 + scales
    )


@given(texts, st.lists(st.integers(0, 5), max_size=9), st.sampled_from([8, 24, 40, 64]))
def test_rows_are_taken_without_the_others(text, rows, columns):
    w = weight(1, 6, columns)
    found = nearest(text, w)
    stored = found.format.store(found, w.shape)
    taken = found.format.stored.take(stored, w.shape, torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(taken.codes, found.codes[rows])
    assert torch.equal(taken.dequantize(), found.dequantize()[rows])


def test_damage_is_a_problem():
    w = weight()
    found = nearest("w4g32z-2:4", w)
    stored = found.format.store(found, w.shape)
    assert found.format.problem(stored, w.shape) is None
    zeros = torch.zeros_like(stored["positions"])
    assert "do not ascend" in found.format.problem({**stored, "positions": zeros}, w.shape)
    assert "expand to int8" in found.format.problem({**stored, "steps": 0 * stored["steps"]}, w.shape)
    assert "62 weights are not divided" in found.format.problem(stored, torch.Size([6, 62]))


@pytest.mark.parametrize("change", ["no mask", "a code where none is kept"])
def test_a_weight_that_is_not_sparse_is_not_stored(change):
    found = nearest("w4g32z-2:4", weight())
    wrong = parse("w4g32z").fit(weight(), mse.weights).hold(found.codes)
    if change != "no mask":
        wrong = found.grid.hold(torch.ones_like(found.codes))
    with pytest.raises(ValueError, match="mask"):
        found.format.store(wrong, found.codes.shape)
