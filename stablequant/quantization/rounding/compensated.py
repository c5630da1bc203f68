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
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..numerics.reproducible import one_thread
from ..numerics.weight_grid import QTensor, WeightGrid

NEEDS_GRAM = True
DAMPING = (0.001, 0.01, 0.1, 1.0)
SAMPLE = 64  # rows that choose the damping
BLOCK = 128  # columns that take the errors of all before them at once: one matrix product instead of many small ones


class Factors(NamedTuple):
    """Factors of one Gram matrix, with different dampings."""

    order: Tensor  # int64 (n,): columns by their power, the last one goes first
    unit: Tensor  # float32 (dampings, n, n)


class Rows(NamedTuple):
    """A weight on several grids, as so many more rows: by columns (n, rows), in units of each row's scale."""

    weight: Tensor
    step: Tensor
    offset: Tensor
    top: Tensor  # (rows,)


def round_weight(
    weight: Tensor, grids: Sequence[WeightGrid], gram: tuple[Tensor, Tensor] | None = None
) -> list[QTensor]:
    """A weight (out, n) on each of some grids, for inputs with these Gram matrices (n, n)."""
    if gram is None:
        raise ValueError("error-compensating rounding needs the Gram matrices of the inputs")
    chosen = _choose_dampings(weight.float(), grids, gram)
    dampings = sorted(set(chosen))
    order, unit = _factors(gram[0] + gram[1], dampings)
    found = []
    for points, damping in zip(grids, chosen, strict=True):  # one by one: all rows of all take much memory
        at = dampings.index(damping)
        found.append(
            points.hold(_round(weight.float(), [points], Factors(order, unit[at : at + 1]))[0, 0].contiguous())
        )
    return found


def _choose_dampings(weight: Tensor, grids: Sequence[WeightGrid], gram: tuple[Tensor, Tensor]) -> list[float]:
    """For each grid the damping whose rounding on the first half has the least error on the second, over SAMPLE."""
    sample = torch.arange(0, len(weight), -(-len(weight) // SAMPLE))
    rows, points = weight[sample], [grid.rows(sample) for grid in grids]
    codes = _round(rows, points, _factors(gram[0], DAMPING))
    wrong = codes.float() * torch.stack([each.scale for each in points])[:, :, None] - rows
    errors = ((wrong @ gram[1]) * wrong).sum((2, 3))
    return [DAMPING[place] for place in errors.argmin(0).tolist()]


def _round(weight: Tensor, grids: Sequence[WeightGrid], factors: Factors) -> Tensor:
    """int8 codes (dampings, grids, out, n).

    A column needs a few small operations, whose call overhead is larger than their work. So all dampings and grids are
    computed together, and with numpy, whose calls are cheaper than torch's, where it gives the same result.
    """
    order, unit = factors
    rows = _rows(weight[:, order], [each.columns(order) for each in grids])
    codes = torch.empty((len(unit), *rows.weight.shape), dtype=torch.int8)
    errors = torch.empty_like(codes, dtype=torch.float32)
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
                code_at[i] = code[:, 0]
                np.subtract(wide[i], code[:, 0], out=error_at[i])
    return codes[:, torch.argsort(order)].unflatten(2, (len(grids), -1)).movedim(1, 3)


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


def _factors(gram: Tensor, dampings: Sequence[float]) -> Factors:
    order = torch.argsort(gram.diagonal(), descending=True, stable=True).flip(0)
    return Factors(order, _unit_factors(gram[order[:, None], order], dampings))


def _unit_factors(gram: Tensor, dampings: Sequence[float]) -> Tensor:
    """The unit lower triangular U of the damped matrix, for each damping (dampings, n, n).

    A matrix without a factor is damped more until it has one.
    """
    factors = gram.new_empty((len(dampings), *gram.shape))
    mean = float(gram.diagonal().mean()) or 1.0
    threads = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(threads) as pool:  # each on one, or the last bits depend on their number
        list(pool.map(lambda factor, damping: _unit_factor(gram, damping * mean, factor), factors, dampings))
    return factors


def _unit_factor(gram: Tensor, damping: float, factor: Tensor) -> None:
    """Fills `factor`."""
    torch.set_num_threads(1)  # of this thread
    failed = True
    while failed:
        factor.copy_(gram).diagonal().add_(damping)
        info = torch.linalg.cholesky_ex(factor, out=(factor, torch.empty(0, dtype=torch.int32))).info
        failed = bool(info) or not bool(factor.diagonal().isfinite().all())
        damping *= 10.0
    factor.div_(factor.diagonal().clone())
