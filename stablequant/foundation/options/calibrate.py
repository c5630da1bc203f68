"""The options of `calibrate`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .. import registry
from ..errors import InputError
from .fields import (
    Options,
    data_field,
    flag,
    language_field,
    limit_field,
    max_samples_field,
    model_field,
    option_field,
    path_field,
    seed_field,
    skip_bad_field,
    target_lang_field,
)

SCORES = ("logits", "wer")
LIMITS = ("avg_bits", "target_compression", "max_wer_increase")  # options that make bits differ from site to site
NO_METHODS = frozenset({"edited", "mixed", "uniform"})  # planners that other options choose, see `planner`
SPARSITIES = ("2:4", "1:4", "4:8", "2:8")  # n:m, n of every m weights are kept
GROUP_SIZES = {"auto": "auto", "32": 32, "64": 64, "128": 128, "channel": None}


def methods() -> tuple[str, ...]:
    """The names that --method takes: planners, and range methods that are used for every layer."""
    planners = (name for name in registry.names("planners") if name not in NO_METHODS)
    return (*planners, *registry.names("ranges"))


def parse_scheme(scheme: str) -> tuple[int, int]:
    """Bits of weights and activations: "w8a8" -> (8, 8)."""
    match = re.fullmatch(r"w(\d+)a(\d+)", scheme, re.IGNORECASE | re.ASCII)
    if match is None:
        raise InputError(f"scheme {scheme!r} is not of the form w8a8")
    weight, activation = map(int, match.groups())
    if not (2 <= weight <= 8 and 2 <= activation <= 8):
        raise InputError(f"scheme {scheme!r}: weights and activations must have 2 to 8 bits")
    return weight, activation


def sparsity_field() -> Any:
    return option_field(
        "Of every m consecutive weights keep n (n:m); the others are zero and not stored. Smaller files, the same "
        "speed, lower accuracy.  [default: all are kept]",
        None,
        one_of=SPARSITIES,
    )


@dataclass(frozen=True)
class CalibrateOptions(Options):
    """What `sfm-quant calibrate` takes."""

    model: str = model_field()
    data: str = data_field()
    out: str = path_field("Folder to write the quantized model to.", metavar="DIR")
    scheme: str = option_field(
        "Bits of weights and of activations, 2 to 8 each: w8a8 is 8 for both, w4a8 has weights of 4 bits, which makes "
        "a model about 7 times smaller instead of 4.",
        "w8a8",
        metavar="SCHEME",
    )
    method: str = option_field(
        "How ranges are chosen: stable searches for each layer; max, mse and percentile use one method for all.",
        "stable",
        one_of=methods,
    )
    score: str = option_field(
        "How the loss of a layer is measured: logits, the change of the output probabilities; wer, word errors (needs "
        "transcripts).",
        "logits",
        one_of=SCORES,
    )
    threshold: float = option_field(
        "Search a better range for layers whose --score worsens by more than this when they are quantized alone.", 0.25
    )
    group_size: int | Literal["auto"] | None = option_field(  # None: a whole row
        "Weights that share a step, at 4 bits and fewer: 32, 64, 128, or channel for a whole row. auto: 64, or 32 in "
        "a mixed model (2-bit weights keep 64 under a tight limit).",
        "auto",
        one_of=GROUP_SIZES,
    )
    sparsity: str | None = sparsity_field()
    rounding: str | None = option_field(
        "How weights are rounded.  [default: compensated at 4 bits and fewer or with --sparsity, nearest above]",
        None,
        one_of=lambda: registry.names("rounding"),
    )
    avg_bits: float | None = limit_field(  # of a weight on disk, scales counted
        "Mix 8, 4, 3 and 2 bits so that weights have this average.", "BITS", least=2, most=8
    )
    target_compression: float | None = limit_field(
        "Mix bits so that the model is this many times smaller than its parameters in float32.", "RATIO", above=1
    )
    max_wer_increase: float | None = limit_field(
        "Mix bits to find the smallest model that loses at most this much WER on held-out recordings of DATA.",
        "POINTS",
    )
    max_samples: int | None = max_samples_field()
    seed: int = seed_field()
    resume: bool = option_field("Continue an interrupted run.", False)
    plan: str | None = path_field(
        "Apply this plan (plan.json or its folder), for example after editing it, without a search.",
        None,
        metavar="PLAN",
    )
    target_lang: str | None = target_lang_field()
    language: str | None = language_field()
    skip_bad: bool = skip_bad_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scheme", self.scheme.lower())
        weight_bits, _ = parse_scheme(self.scheme)
        limits = [flag(name) for name in self.limits()]
        if len(limits) > 1:
            raise InputError(f"use only one of {', '.join(limits)}")
        if limits and weight_bits != 8:
            raise InputError(f"{limits[0]} chooses the bits of the weights; use 8-bit weights (w8) in --scheme")

    def limits(self) -> list[str]:
        """The limits on the bits of all weights that are set."""
        return [name for name in LIMITS if getattr(self, name) is not None]

    def planner(self) -> str:
        """The planner that these options choose."""
        if self.plan is not None:
            return "edited"
        return "mixed" if self.limits() else self.range_planner()

    def range_planner(self) -> str:
        """The planner that chooses the ranges: the one that --method names, or `uniform` for a range method."""
        return "uniform" if self.method in registry.names("ranges") else self.method

    def needs_text(self) -> bool:
        """Whether recordings need transcripts."""
        return self.score == "wer" or self.max_wer_increase is not None

    def refuse_ignored(self, given: Collection[str]) -> None:
        for name, reason in self._ignored():
            if name in given:
                raise InputError(f"{flag(name)} {reason}")

    def _ignored(self) -> Iterator[tuple[str, str]]:
        """(option without effect, why)"""
        if self.plan is not None:
            for name in ("scheme", "method", "threshold", "group_size", "sparsity", *LIMITS):
                yield name, "is already set in the plan; edit it there, or leave out --plan"
        elif self.range_planner() == "uniform":
            yield "threshold", "is only used by --method stable; leave it out"
        if not self.limits() and parse_scheme(self.scheme)[0] > 4:
            yield "group_size", f"is for weights of 4 bits and fewer, but --scheme is {self.scheme}"
