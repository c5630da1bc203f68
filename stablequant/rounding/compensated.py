"""Rounding whose errors cancel in the output: GPTQ (Frantar et al. 2023, arXiv 2210.17323).

The columns of a weight are rounded one after another, and the errors of those before are made up for by each, as the
inputs' Gram matrix G says: it minimises tr((W^ - W) G (W^ - W)^T), the squared error of the output. Columns with the
most power go first, while there are many left to make up for them (section 3.3, act-order).

In the form of QuIP (Chee et al. 2023, arXiv 2307.13304, section 3, where theorem 6 says that the two are the same):
with G = U D U^T, U unit triangular, the error is sum_k D_k ||(W^ - W) U_k||^2, and column k is rounded from
w_k + sum_j (w_j - w^_j) U_jk over the columns j before it. That needs one Cholesky factor of G and no inverse.

G of few or silent inputs is nearly singular and would be fitted to noise. Its diagonal is raised by a share of its
mean that is chosen, not fixed: the one of DAMPING whose rounding, made with the inputs' first half, has the least
error on the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import QTensor
from ..lattice import Lattice
from ..reproducible import one_thread

NEEDS_GRAM = True
DAMPING = (0.001, 0.01, 0.1, 1.0)
SAMPLE = 64  # rows that choose the damping
BLOCK = 128  # columns that take the errors of all before them at once: one matrix product instead of many small ones


def round_weight(weight: Tensor, lattice: Lattice, gram: tuple[Tensor, Tensor] | None = None) -> QTensor:
    """Codes of a weight (out, n) on a lattice, for inputs with these Gram matrices (n, n)."""
    if gram is None:
        raise ValueError("error-compensating rounding needs the Gram matrices of the inputs")
    damping = _choose_damping(weight.float(), lattice, gram)
    return lattice.hold(_round(weight.float(), lattice, gram[0] + gram[1], [damping])[0])


def _choose_damping(weight: Tensor, lattice: Lattice, gram: tuple[Tensor, Tensor]) -> float:
    """The damping whose rounding on the first half has the least error on the second, over a sample of rows."""
    sample = torch.arange(0, len(weight), -(-len(weight) // SAMPLE))
    rows, points = weight[sample], lattice.rows(sample)
    wrong = _round(rows, points, gram[0], DAMPING).float() * points.scale[:, None] - rows
    errors = ((wrong @ gram[1]) * wrong).sum((1, 2))
    return DAMPING[int(errors.argmin())]


def _round(weight: Tensor, lattice: Lattice, gram: Tensor, dampings: Sequence[float]) -> Tensor:
    """int8 codes (dampings, out, n): each column takes a few small steps, so all dampings take them together."""
    order = torch.argsort(gram.diagonal(), descending=True, stable=True).flip(0)  # the last column goes first
    unit = _unit_factors(gram[order[:, None], order], dampings)
    points, columns = lattice.of(order).by_columns(), weight.T[order]
    codes = torch.empty((len(dampings), *columns.shape), dtype=torch.int8)
    errors = torch.empty_like(codes, dtype=torch.float32)
    for stop in range(len(columns), 0, -BLOCK):
        block = slice(max(0, stop - BLOCK), stop)
        wanted = torch.baddbmm(columns[block], unit[:, stop:, block].mT, errors[:, stop:])
        for i in reversed(range(block.start, stop)):
            at, done = slice(i, i + 1), slice(i + 1, stop)
            want = torch.baddbmm(wanted[:, i - block.start, None], unit[:, done, at].mT, errors[:, done])
            codes[:, at] = points.column(i).nearest(want)
            errors[:, at] = columns[i] - codes[:, at] * points.scale
    return codes[:, torch.argsort(order)].mT.contiguous()


def _unit_factors(gram: Tensor, dampings: Sequence[float]) -> Tensor:
    """The unit lower triangular U of the damped matrix, for each damping (dampings, n, n).

    A matrix that has none is damped more until it has one.
    """
    factors = gram.new_empty((len(dampings), *gram.shape))
    mean = float(gram.diagonal().mean()) or 1.0
    for factor, damping in zip(factors, dampings, strict=True):
        failed = True
        while failed:
            factor.copy_(gram).diagonal().add_(damping * mean)
            with one_thread():  # or the last bits depend on their number
                info = torch.linalg.cholesky_ex(factor, out=(factor, torch.empty(0, dtype=torch.int32))).info
            failed = bool(info) or not bool(factor.diagonal().isfinite().all())
            damping *= 10.0
        factor.div_(factor.diagonal().clone())
    return factors
