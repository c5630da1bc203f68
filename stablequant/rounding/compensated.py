"""Rounding whose errors cancel in the output: GPTQ (Frantar et al. 2023, arXiv 2210.17323).

The columns of a weight are rounded one after another, and the error of each is made up for by the columns that are
still to come, as the inputs' Gram matrix G says: it minimises tr((W^ - W) G (W^ - W)^T), the squared error of the
output. Columns with the most power go first, while there are many left to make up for them (section 3.3, act-order).

G of few or silent inputs is nearly singular and would be fitted to noise. Its diagonal is raised by a share of its
mean that is chosen, not fixed: the one of DAMPING whose rounding, made with the inputs' first half, has the least
error on the second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import QTensor
from ..lattice import Lattice, Points

NEEDS_GRAM = True
DAMPING = (0.001, 0.01, 0.1, 1.0)
SAMPLE = 64  # rows that choose the damping
BLOCK = 128  # columns between two updates of all columns that follow: one matrix product instead of many small ones


def round_weight(weight: Tensor, lattice: Lattice, gram: tuple[Tensor, Tensor] | None = None) -> QTensor:
    """Codes of a weight (out, n) on a lattice, for inputs with these Gram matrices (n, n)."""
    if gram is None:
        raise ValueError("error-compensating rounding needs the Gram matrices of the inputs")
    damping = _choose_damping(weight.float(), lattice, gram)
    return lattice.hold(_round(weight.float(), lattice, gram[0] + gram[1], damping))


def _choose_damping(weight: Tensor, lattice: Lattice, gram: tuple[Tensor, Tensor]) -> float:
    """The damping whose rounding on the first half has the least error on the second, over a sample of rows."""
    sample = torch.arange(0, len(weight), -(-len(weight) // SAMPLE))
    rows, points = weight[sample], lattice.rows(sample)

    def error(damping: float) -> float:
        wrong = _round(rows, points, gram[0], damping).float() * points.scale[:, None] - rows
        return float(((wrong @ gram[1]) * wrong).sum())

    return min(DAMPING, key=error)


def _round(weight: Tensor, lattice: Lattice, gram: Tensor, damping: float) -> Tensor:
    """int8 codes (out, n)."""
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    factor = _factor(gram[order][:, order], damping)
    left, codes = weight[:, order], torch.empty(weight.shape, dtype=torch.int8)
    for start in range(0, left.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, left.shape[1]))
        errors = _round_block(left[:, block], codes[:, block], lattice.of(order[block]), factor[block, block])
        left[:, block.stop :] -= errors @ factor[block, block.stop :]
    return codes[:, torch.argsort(order)]


def _round_block(left: Tensor, codes: Tensor, points: Points, factor: Tensor) -> Tensor:
    """Round a block of columns (out, k) in place, into `codes`; returns the scaled errors (out, k)."""
    errors = torch.empty_like(left)
    for i in range(left.shape[1]):
        codes[:, i : i + 1] = points.column(i).nearest(left[:, i : i + 1])
        rounded = codes[:, i] * points.scale[:, 0]
        errors[:, i] = (left[:, i] - rounded) / factor[i, i]
        left[:, i + 1 :].addr_(errors[:, i], factor[i, i + 1 :], alpha=-1.0)
    return errors


def _factor(gram: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped matrix; damping grows until the matrix has one."""
    mean = float(gram.diagonal().mean()) or 1.0
    while True:
        lower, failed = torch.linalg.cholesky_ex(gram + torch.diag(torch.full((len(gram),), damping * mean)))
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and bool(upper.isfinite().all()):
                return upper
        damping *= 10.0
