"""Formats of weights: one file each, found by its name, with two functions that return a `WeightFormat`.

of(bits, group, asymmetric, sparsity)   the format with these settings, None where another file has them; ValueError,
                                        in the names of plan.json, where they do not go together
parse(text)                             the format that `str` wrote as `text`, None where another file's did
"""

SHARED = ("base",)
