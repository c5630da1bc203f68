"""Rounding whose errors cancel in the output: GPTQ (Frantar et al. 2023, arXiv 2210.17323).

The columns of a weight are rounded one after another, and each compensates for the errors of those before it, as the
inputs' Gram matrix G says: this minimises tr((W^ - W) G (W^ - W)^T), the squared error of the output. Columns with the
most power go first, while many are left to compensate for them (section 3.3, act-order).

In the form of QuIP (Chee et al. 2023, arXiv 2307.13304, section 3, where theorem 6 says that the two are the same):
with G = U D U^T, U unit triangular, the error is sum_k D_k ||(W^ - W) U_k||^2, and column k is rounded from
w_k + sum_j (w_j - w^_j) U_jk over the columns j before it. That needs one Cholesky factor of G and no inverse.

With few or silent inputs G is nearly singular, and the rounding would fit noise. Its diagonal is raised by a share of
its mean that is chosen, not fixed: the one in DAMPING whose rounding, made with the first half of the inputs, has the
least error on the second half.

With N:M sparsity, weights that are not kept are rounded to zero. The m columns of a block stay together, and blocks
with the most power go first. What a block keeps is decided when it is reached, of its weights as they then are: those
with the largest w^2 D_k (SparseGPT, Frantar and Alistarh 2023, arXiv 2301.00774, section 3.3, where 1 / D_k is the
diagonal element of the inverse of G for the columns that are left).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..numerics.reproducible import one_thread
from ..numerics.sparsity import Sparsity
from ..numerics.weight_grid import QTensor, WeightGrid

NEEDS_GRAM = True
DAMPING = (0.001, 0.01, 0.1, 1.0)
SAMPLE = 64  # rows that choose the damping
BLOCK = 128  # columns that take the errors of all before them at once: one matrix product instead of many small ones


class Factors(NamedTuple):
    """Factors of one Gram matrix, with different dampings."""

    order: Tensor  # int64 (n,): columns by their power, the last one goes first
    unit: Tensor  # float32 (dampings, n, n)
    diagonal: Tensor  # float32 (dampings, n): D, the power of a column that those with errors do not explain

    def of(self, damping: int) -> Factors:
        """The factors with one damping."""
        at = slice(damping, damping + 1)
        return Factors(self.order, self.unit[at], self.diagonal[at])


class Rows(NamedTuple):
    """A weight on several grids, as so many more rows: by columns (n, rows), in units of each row's scale."""

    weight: Tensor
    step: Tensor
    offset: Tensor
    top: Tensor  # (rows,)


class Rounded(NamedTuple):
    """Weights (dampings, grids, out, n)."""

    codes: Tensor  # int8
    kept: Tensor | None  # bool, the mask; None without sparsity


def round_weight(
    weight: Tensor, grids: Sequence[WeightGrid], gram: tuple[Tensor, Tensor] | None = None
) -> list[QTensor]:
    """A weight (out, n) on each of some grids, all of one sparsity, for inputs with these Gram matrices (n, n)."""
    if gram is None:
        raise ValueError("error-compensating rounding needs the Gram matrices of the inputs")
    chosen = _choose_dampings(weight.float(), grids, gram)
    dampings = sorted(set(chosen))
    factors = _factors(gram[0] + gram[1], dampings, grids[0].format.sparsity)
    found = []
    for points, damping in zip(grids, chosen, strict=True):  # one by one: all rows of all take much memory
        codes, kept = _round(weight.float(), [points], factors.of(dampings.index(damping)))
        found.append(points.hold(codes[0, 0].contiguous(), None if kept is None else kept[0, 0].contiguous()))
    return found


def _choose_dampings(weight: Tensor, grids: Sequence[WeightGrid], gram: tuple[Tensor, Tensor]) -> list[float]:
    """For each grid the damping whose rounding on the first half has the least error on the second, over SAMPLE."""
    sample = torch.arange(0, len(weight), -(-len(weight) // SAMPLE))
    rows, points = weight[sample], [grid.rows(sample) for grid in grids]
    codes, _ = _round(rows, points, _factors(gram[0], DAMPING, grids[0].format.sparsity))
    wrong = codes.float() * torch.stack([each.scale for each in points])[:, :, None] - rows
    errors = ((wrong @ gram[1]) * wrong).sum((2, 3))
    return [DAMPING[place] for place in errors.argmin(0).tolist()]


def _round(weight: Tensor, grids: Sequence[WeightGrid], factors: Factors) -> Rounded:
    """The weight with each damping, on each grid.

    A column needs a few small operations, whose call overhead is larger than their work. So all dampings and grids are
    computed together, and with numpy, whose calls are cheaper than torch's, where it gives the same result.
    """
    order, unit, diagonal = factors
    (sparsity,) = {each.format.sparsity for each in grids}
    rows = _rows(weight[:, order], [each.columns(order) for each in grids])
    codes = torch.empty((len(unit), *rows.weight.shape), dtype=torch.int8)
    errors = torch.empty_like(codes, dtype=torch.float32)
    kept = None if sparsity is None else torch.empty_like(codes, dtype=torch.bool)
    wide, step, offset, top = (each.numpy() for each in rows)
    code_at, error_at = (each.numpy().swapaxes(0, 1) for each in (codes, errors))
    for stop in range(len(order), 0, -BLOCK):
        block = slice(max(0, stop - BLOCK), stop)
        wanted = torch.baddbmm(rows.weight[block], unit[:, stop:, block].mT, errors[:, stop:])
        with one_thread():  # threads would wait for each other in every column
            for i in reversed(range(block.start, stop)):
                at, done = slice(i, i + 1), slice(i + 1, stop)
                code = torch.baddbmm(wanted[:, i - block.start, None], unit[:, done, at].mT, errors[:, done]).numpy()
                _to_points(code, step[i], offset[i], top)
                if sparsity is not None and kept is not None:
                    if (i + 1) % sparsity.of == 0:  # the first column of a block
                        here = slice(i + 1 - sparsity.of, i + 1)
                        before = wanted[:, here.start - block.start : here.stop - block.start]
                        before = torch.baddbmm(before, unit[:, done, here].mT, errors[:, done])
                        now = _compensating(rows.weight[here], before, unit[:, here, here])
                        kept[:, here] = sparsity.largest((now.square() * diagonal[:, here, None]).mT).mT
                    code *= kept[:, at].numpy()
                code_at[i] = code[:, 0]
                np.subtract(wide[i], code[:, 0], out=error_at[i])
    masks = None if kept is None else _in_order(kept, order, len(grids))
    return Rounded(_in_order(codes, order, len(grids)), masks)


def _compensating(weight: Tensor, wanted: Tensor, unit: Tensor) -> Tensor:
    """The columns (dampings, k, rows) of a weight (k, rows) as they make up for all errors before them.

    `wanted` is what each would be rounded from if it were next, and those between did not move; they move first.
    """
    moved = torch.linalg.solve_triangular(unit.mT, wanted - weight, upper=True, unitriangular=True)
    return moved.add_(weight)


def _in_order(values: Tensor, order: Tensor, grids: int) -> Tensor:
    """(dampings, columns in this order, rows of all grids) as (dampings, grids, out, n)."""
    return values[:, torch.argsort(order)].unflatten(2, (grids, -1)).movedim(1, 3)


def _to_points(values: np.ndarray, step: np.ndarray, offset: np.ndarray, top: np.ndarray) -> None:
    """Move values (..., rows), in units of the scale, to the nearest points of the grid."""
    values -= offset
    values /= step
    np.rint(values, out=values)
    np.maximum(values, 0.0, out=values)
    np.minimum(values, top, out=values)
    values *= step
    values += offset


def _rows(weight: Tensor, grids: Sequence[WeightGrid]) -> Rows:
    points = [each.of().by_columns() for each in grids]
    return Rows(
        torch.cat([weight.T / each.scale for each in points], 1),
        torch.cat([each.step for each in points], 1),
        torch.cat([each.offset for each in points], 1),
        torch.cat([torch.full_like(each.scale, each.top) for each in points]),
    )


def _factors(gram: Tensor, dampings: Sequence[float], sparsity: Sparsity | None) -> Factors:
    order = _order(gram.diagonal(), 1 if sparsity is None else sparsity.of)
    return Factors(order, *_unit_factors(gram[order[:, None], order], dampings))


def _order(power: Tensor, block: int) -> Tensor:
    """Columns by their power, the last one goes first: whole blocks by their sum, then those of each block."""
    blocks = power.view(-1, block)
    within = blocks.argsort(dim=1, descending=True, stable=True)
    first = blocks.sum(1).argsort(dim=0, descending=True, stable=True)
    return (first[:, None] * block + within[first]).flatten().flip(0)


def _unit_factors(gram: Tensor, dampings: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The unit lower triangular U (dampings, n, n) and D (dampings, n) of the damped matrix, for each damping.

    A matrix without a factor is damped more until it has one.
    """
    factors = gram.new_empty((len(dampings), *gram.shape))
    diagonals = gram.new_empty((len(dampings), len(gram)))
    mean = float(gram.diagonal().mean()) or 1.0
    threads = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(threads) as pool:  # each on one, or the last bits depend on their number
        fill = lambda damping, *found: _unit_factor(gram, damping * mean, *found)  # noqa: E731
        list(pool.map(fill, dampings, factors, diagonals))
    return factors, diagonals


def _unit_factor(gram: Tensor, damping: float, factor: Tensor, diagonal: Tensor) -> None:
    """Fills `factor` and `diagonal`."""
    torch.set_num_threads(1)  # of this thread
    failed = True
    while failed:
        factor.copy_(gram).diagonal().add_(damping)
        info = torch.linalg.cholesky_ex(factor, out=(factor, torch.empty(0, dtype=torch.int32))).info
        failed = bool(info) or not bool(factor.diagonal().isfinite().all())
        damping *= 10.0
    roots = factor.diagonal().clone()
    torch.square(roots, out=diagonal)
    factor.div_(roots)
