"""The options of each command, written once: the command line and the library are made from these fields.

Importing this needs no torch, so that `--help` is fast.
"""

from .calibrate import LIMITS, SCORES, SPARSITIES, CalibrateOptions, methods, parse_scheme
from .evaluate import NORMALIZERS, EvaluateOptions
from .fields import Options, allowed, flag
from .report import ReportOptions
from .transcribe import TranscribeOptions
from .tune import LOSSES, TuneOptions

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
