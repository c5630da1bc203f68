"""Rounding methods: one file each, with the same pure function.

round_weight(weight (out, n), grid, gram) -> QTensor

`gram` is two matrices (n, n), the sums of x x^T over each half of the inputs x (n,) that the weight meets; None for a
method that does not set NEEDS_GRAM.
"""
