"""Compensated rounding with N:M sparsity, against SparseGPT with an inverse, column by column in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.quantization.numerics.sparsity import Sparsity
from stablequant.quantization.ranges import mse
from stablequant.quantization.rounding import compensated
from stablequant.quantization.search import rounding_pass
from stablequant.quantization.weight_formats.base import parse

TEXTS = ("w8-2:4", "w4g32z-2:4", "w4-1:4", "w3g32z-2:4", "w2g32z-4:8", "w2-2:8")


def weight(seed, rows=12, columns=64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def inputs(seed, columns=64, frames=400):
    """Correlated, and of different power."""
    rng = np.random.default_rng([seed, 1])
    x = rng.standard_normal((frames, columns)) @ (rng.standard_normal((columns, columns)) / 8 + np.eye(columns))
    return torch.from_numpy((x * np.exp(rng.normal(0, 0.5, columns))).astype(np.float32))


def halves(x):
    return x[::2].T @ x[::2], x[1::2].T @ x[1::2]


def sparse_gpt(w, grid, gram, damping):
    """Codes and mask by the formulas of the paper: an inverse that loses a column at a time, weights that move."""
    sparsity, (rows, columns) = grid.format.sparsity, w.shape
    points, w, scale = grid.of(), w.double().numpy().copy(), grid.scale.double().numpy()
    step, offset = (each.double().numpy() for each in (points.step, points.offset))
    hessian = gram.double().numpy() + damping * float(gram.diagonal().mean()) * np.eye(columns)
    power = gram.diagonal().double().numpy().reshape(-1, sparsity.of)
    codes, mask, done = np.zeros(w.shape), np.zeros(w.shape, bool), []
    for block in np.argsort(-power.sum(1), kind="stable"):
        inside = block * sparsity.of + np.argsort(-power[block], kind="stable")
        left = np.setdiff1d(np.arange(columns), done)
        score = {}
        for column in inside:  # as if the block's columns before it were gone
            inverse = np.linalg.inv(hessian[np.ix_(left, left)])
            at = int(np.flatnonzero(left == column)[0])
            score[column] = w[:, column] ** 2 / scale**2 / inverse[at, at]
            left = np.delete(left, at)
        ranks = np.argsort(-np.stack([score[c] for c in sorted(score)], 1), 1, kind="stable")[:, : sparsity.kept]
        mask[np.arange(rows)[:, None], block * sparsity.of + ranks] = True
        for column in inside:
            left = np.setdiff1d(np.arange(columns), done)
            inverse, at = np.linalg.inv(hessian[np.ix_(left, left)]), int(np.flatnonzero(left == column)[0])
            code = np.rint((w[:, column] / scale - offset[:, column]) / step[:, column]).clip(0, points.top)
            codes[:, column] = np.where(mask[:, column], code * step[:, column] + offset[:, column], 0.0)
            error = (w[:, column] - codes[:, column] * scale) / inverse[at, at]
            w[:, left] -= error[:, None] * inverse[at]
            done.append(column)
    return codes, mask


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_sparse_gpt(text, seed, monkeypatch):
    monkeypatch.setattr(compensated, "BLOCK", 16)  # so that errors cross its blocks
    monkeypatch.setattr(compensated, "DAMPING", (0.1,))
    w, gram = weight(seed), halves(inputs(seed))
    grid = parse(text).fit(w, mse.weights, (gram[0] + gram[1]).diagonal())
    [found] = compensated.round_weight(w, [grid], gram)
    codes, mask = sparse_gpt(w, grid, gram[0] + gram[1], 0.1)
    same_mask = found.grid.kept.numpy() == mask
    assert same_mask.mean() > 0.995  # a tie in float32 may fall otherwise, and what follows it
    assert (found.codes.numpy() == codes).mean() > 0.99


@given(st.sampled_from(TEXTS), st.integers(0, 99))
def test_n_of_m_are_kept_and_the_others_are_zero(text, seed):
    w, gram = weight(seed, 5, 32), halves(inputs(seed, 32))
    grid = parse(text).fit(w, mse.weights)
    [found] = compensated.round_weight(w, [grid], gram)
    sparsity = Sparsity.parse(text.partition("-")[2])
    assert (found.grid.kept.view(5, -1, sparsity.of).sum(-1) == sparsity.kept).all()
    assert not found.codes[~found.grid.kept].any()
    steps = (found.codes - grid.of().offset) / grid.of().step
    assert torch.equal(steps[found.grid.kept], steps[found.grid.kept].round().clamp(0, grid.format.top))
    stored = found.format.store(found, w.shape)
    assert torch.equal(found.format.load(stored, w.shape).codes, found.codes)


def test_several_grids_at_once_give_what_each_gives_alone():
    w, gram = weight(5), halves(inputs(5))
    grids = [parse(text).fit(w, mse.weights) for text in ("w8-2:4", "w4g32z-2:4", "w2g32z-2:4")]
    together = compensated.round_weight(w, grids, gram)
    for grid, found in zip(grids, together, strict=True):
        [alone] = compensated.round_weight(w, [grid], gram)
        assert torch.equal(found.codes, alone.codes)
        assert torch.equal(found.grid.kept, alone.grid.kept)


def output_error(w, found, gram):
    wrong = (found.dequantize() - w).double()
    return float(((wrong @ (gram[0] + gram[1]).double()) * wrong).sum())


@pytest.mark.parametrize("text", TEXTS)
def test_it_has_less_error_in_the_output_than_magnitudes_and_than_a_mask_that_is_not_moved(text):
    w, x = weight(2, 48, 128), inputs(2, 128, 2000)
    gram = halves(x)
    grid = parse(text).fit(w, mse.weights, (gram[0] + gram[1]).diagonal())
    [found] = compensated.round_weight(w, [grid], gram)
    magnitude = parse(text).fit(w, mse.weights)
    error = output_error(w, found, gram)
    assert error < 0.6 * output_error(w, magnitude.hold(magnitude.nearest(w)), gram)
    assert error < 0.9 * output_error(w, grid.hold(grid.nearest(w)), gram)
    assert not torch.equal(found.grid.kept, grid.kept)
    assert rounding_pass.beside(grid, [found]).grid.kept is not grid.kept
