"""Rounding of weights: one file each, with one pure function.

round_weight(weight (out, n), scale (out,), grid) -> QTensor
"""
