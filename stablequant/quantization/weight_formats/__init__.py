"""Formats of weights: one file each, found by its name, with two functions that return a `WeightFormat`.

of(bits, group, asymmetric)   the format with these settings, None where another file has so many bits; ValueError, in
                              the names of plan.json, where `group` or `asymmetric` do not go with the bits
parse(text)                   the format that `str` wrote as `text`, None where another file's did
"""

SHARED = ("base",)
