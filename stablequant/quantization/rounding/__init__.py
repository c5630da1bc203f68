"""Rounding methods: one file each, with the same pure function.

round_weight(weight (out, n), grids, gram) -> [QTensor, one for each grid]

`grids` are the lattices that the weight is rounded to, each by itself: the formats that a search tries, for example.
All have the same sparsity. A grid with sparsity says which weights are kept; a method may choose others, and returns
weights on grids that say so.
`gram` is two matrices (n, n), the sums of x x^T over each half of the inputs x (n,) that the weight meets; None for a
method that does not set NEEDS_GRAM.
"""
