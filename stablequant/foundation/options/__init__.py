"""The options of each command, written once: the command line and the library are made from these fields.

Importing this needs no torch, so that `--help` is fast.
"""

from .fields import Options, allowed, flag
from .measure import NORMALIZERS, EvaluateOptions, ReportOptions, TranscribeOptions
from .quantize import LIMITS, LOSSES, SCORES, SPARSITIES, CalibrateOptions, TuneOptions, methods, parse_scheme

__all__ = [
    "LIMITS",
    "LOSSES",
    "NORMALIZERS",
    "SCORES",
    "SPARSITIES",
    "CalibrateOptions",
    "EvaluateOptions",
    "Options",
    "ReportOptions",
    "TranscribeOptions",
    "TuneOptions",
    "allowed",
    "flag",
    "methods",
    "parse_scheme",
]
