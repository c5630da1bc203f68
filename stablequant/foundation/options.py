"""The options of each command, written once: the command line and the library are made from these fields.

The metadata of a field says how it is shown (`help`, `metavar`, `argument`, `flag`) and which values it may have
(`one_of`, `least`, `above`, `most`, `path`). An invalid value is an InputError when the object is made, so options
need no further checks. Importing this needs no torch, so that `--help` is fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal

from . import registry
from .errors import InputError

SCORES = ("logits", "wer")
LOSSES = ("distill", "task", "both")
TASKS = ("transcribe", "translate")
FORMATS = ("txt", "json", "srt", "vtt")
MOST_BEAMS = 64
NORMALIZERS = ("none", "basic", "english")
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


def flag(name: str) -> str:
    """How a field is written on the command line."""
    return "--" + name.replace("_", "-")


def allowed(of: Field[Any]) -> Mapping[str, Any]:
    """{what is typed: value} of a field with few values; empty for one with many."""
    given: Any = of.metadata.get("one_of", ())
    names = given() if callable(given) else given
    return names if isinstance(names, Mapping) else dict(zip(names, names, strict=True))


def _option(help: str, default: Any = MISSING, **shown: Any) -> Any:
    return field(default=default, metadata={"help": help, **shown})


def _path(help: str, default: Any = MISSING, **shown: Any) -> Any:
    return _option(help, default, path=True, **shown)


def _model() -> Any:
    return _path("", argument=True)


def _data() -> Any:
    seen = "Manifest or folder of recordings (check it with `sfm-quant data`); - reads a manifest from stdin."
    return _path(seen, metavar="DATA")


def _max_samples() -> Any:
    return _option("Use only N utterances, drawn with the seed.", None, metavar="N", least=1)


def _seed() -> Any:
    return _option("Seed for the subset and the confidence intervals.", 0, least=0)


def _skip_bad() -> Any:
    return _option("Skip unusable entries and recordings; each is reported, and the JSON has the count.", False)


def _target_lang() -> Any:
    return _option("Language of a model with language adapters (MMS), e.g. eng.", None, metavar="LANG")


def _language() -> Any:
    return _option("Language that is spoken, for a multilingual Whisper.  [default: detected]", None, metavar="LANG")


def _task() -> Any:
    return _option("What a multilingual Whisper writes: the words, or English.", "transcribe", one_of=TASKS)


def _beam_size() -> Any:
    return _option("Beams of a model that generates text.", 1, metavar="N", least=1, most=MOST_BEAMS)


def _limit(help: str, metavar: str, **bounds: Any) -> Any:
    return _option(help, None, metavar=metavar, **bounds)


class Options:
    """What the options of all commands have in common; the fields are those of a dataclass below."""

    def __post_init__(self) -> None:
        declared: Any = self
        for each in fields(declared):
            if problem := _problem(each, getattr(self, each.name)):
                raise InputError(f"{flag(each.name)} is {getattr(self, each.name)}; {problem}")

    def refuse_ignored(self, given: Collection[str]) -> None:
        """InputError if one of the fields in `given` would have no effect."""


def _problem(of: Field[Any], value: Any) -> str | None:
    """What is wrong with the value of a field, as advice."""
    names, limits = allowed(of), of.metadata
    if names and value not in names.values() and not (value is None and of.default is None):
        near = get_close_matches(str(value), names, 1)
        return f"it must be one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be a finite number"
    if value < limits.get("least", value):
        return f"it must be {limits['least']} or more"
    if "above" in limits and value <= limits["above"]:
        return f"it must be more than {limits['above']}"
    return f"it must be {limits['most']} or less" if value > limits.get("most", value) else None


@dataclass(frozen=True)
class CalibrateOptions(Options):
    """What `sfm-quant calibrate` takes."""

    model: str = _model()
    data: str = _data()
    out: str = _path("Folder to write the quantized model to.", metavar="DIR")
    scheme: str = _option(
        "Bits of weights and of activations, 2 to 8 each: w8a8 is 8 for both, w4a8 has weights of 4 bits, which makes "
        "a model about 7 times smaller instead of 4.",
        "w8a8",
        metavar="SCHEME",
    )
    method: str = _option(
        "How ranges are chosen: stable searches layer by layer, others are for all layers.", "stable", one_of=methods
    )
    score: str = _option(
        "How the loss of a layer is measured: changed posteriors, or word errors (needs transcripts).",
        "logits",
        one_of=SCORES,
    )
    threshold: float = _option("Layers that lose more points than this when quantized alone are searched.", 0.25)
    group_size: int | Literal["auto"] | None = _option(  # None: a whole row
        "Weights that share a step, at 4 bits and fewer: 32, 64, 128, or channel for a whole row. auto: 64, or 32 in "
        "a mixed model (at 2 bits only if the average is 3 bits or more).",
        "auto",
        one_of=GROUP_SIZES,
    )
    sparsity: str | None = _option(
        "Keep n of every m weights that follow each other in a row, n:m; the others are zero and take no codes. Saves "
        "disk, not time, and loses words.  [default: all are kept]",
        None,
        one_of=SPARSITIES,
    )
    rounding: str | None = _option(
        "How weights are rounded.  [default: compensated at 4 bits and fewer or with --sparsity, nearest above]",
        None,
        one_of=lambda: registry.names("rounding"),
    )
    avg_bits: float | None = _limit(  # of a weight on disk, scales counted
        "Mix 8, 4, 3 and 2 bits so that weights have this average.", "BITS", least=2, most=8
    )
    target_compression: float | None = _limit(
        "Mix bits so that the model is this many times smaller than its parameters in float32.", "RATIO", above=1
    )
    max_wer_increase: float | None = _limit(
        "Mix bits to find the smallest model that loses at most this much WER on held-out recordings of DATA.",
        "POINTS",
    )
    max_samples: int | None = _max_samples()
    seed: int = _seed()
    resume: bool = _option("Continue an interrupted run.", False)
    plan: str | None = _path(
        "Apply this plan (plan.json or its folder), for example after editing it, without a search.",
        None,
        metavar="PLAN",
    )
    target_lang: str | None = _target_lang()
    language: str | None = _language()
    skip_bad: bool = _skip_bad()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scheme", self.scheme.lower())
        weight_bits, _ = parse_scheme(self.scheme)
        limits = [flag(name) for name in self.limits()]
        if len(limits) > 1:
            raise InputError(f"use only one of {', '.join(limits)}")
        if limits and weight_bits != 8:
            raise InputError(f"{limits[0]} chooses the bits of the weights; use 8-bit weights (w8) in --scheme (w8)")

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


@dataclass(frozen=True)
class TuneOptions(Options):
    """What `sfm-quant tune` takes."""

    model: str = _model()
    data: str = _path("Recordings to train on: a manifest or folder. Transcripts are only for --loss.", metavar="DATA")
    out: str = _path("Folder to write the quantized model to.", metavar="DIR")
    dev: str | None = _path(
        "Recordings that choose the best state.  [default: every tenth of DATA, held out]", None, metavar="DATA"
    )
    scheme: str = _option("Bits of weights and activations, such as w4a8, w3a8 or w2a8.", "w4a8")
    avg_bits: float | None = _limit(
        "Mix 8, 4, 3 and 2 bits so that weights have this average.", "BITS", least=2, most=8
    )
    target_compression: float | None = _limit(
        "Mix bits so that the model is this many times smaller than its parameters in float32.", "RATIO", above=1
    )
    group_size: int | Literal["auto"] | None = _option(
        "Weights that share a step: 32, 64, 128, or channel for a whole row. auto: as `sfm-quant calibrate`.",
        "auto",
        one_of=GROUP_SIZES,
    )
    start: str | None = _path(
        "Start from this quantized folder of MODEL.  [default: calibrate first]", None, metavar="DIR", flag="--from"
    )
    loss: str = _option(
        "What is learned: the float model's posteriors, the transcripts, or both.", "distill", one_of=LOSSES
    )
    steps: int | None = _option("Steps of four recordings, end to end.  [default: 300]", None, metavar="N", least=1)
    layer_steps: int | None = _option(
        "Steps of two recordings for each layer alone, before that.  [default: 300]", None, metavar="N", least=0
    )
    minutes: float | None = _limit("Train for so long instead of a number of steps.", "M", above=0)
    max_samples: int | None = _max_samples()
    seed: int = _seed()
    resume: bool = _option("Continue an interrupted run.", False)
    target_lang: str | None = _target_lang()
    language: str | None = _language()
    skip_bad: bool = _skip_bad()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.minutes is not None:
            raise InputError("use only one of --steps, --minutes")
        self.calibration(self.data, self.out)  # its checks

    def calibration(self, data: str, out: str) -> CalibrateOptions:
        """The options of the calibration that training starts from."""
        limits = self.avg_bits is not None or self.target_compression is not None
        names = ("model", "avg_bits", "target_compression", "group_size", "max_samples", "seed", "target_lang")
        return CalibrateOptions(
            data=data,
            out=out,
            scheme="w8a" + self.scheme.lower().rpartition("a")[2] if limits else self.scheme,
            method="mse",  # ranges are learned from there
            language=self.language,
            skip_bad=self.skip_bad,
            **{name: getattr(self, name) for name in names},
        )

    def refuse_ignored(self, given: Collection[str]) -> None:
        for name in ("scheme", "avg_bits", "target_compression", "group_size"):
            if self.start is not None and name in given:
                raise InputError(f"{flag(name)} is already set in the folder of --from; leave it out")


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What `sfm-quant eval` takes."""

    model: str = _model()
    data: str = _data()
    baseline: str | None = _path("Model to compare with, usually the float model.", None, metavar="MODEL")
    max_wer_increase: float | None = _limit("Fail if WER rises by more.", "POINTS")
    min_speedup: float | None = _limit("Fail if the speed-up is lower.", "RATIO")
    min_compression: float | None = _limit(
        "Fail if the model's files are not this many times smaller than the baseline's.", "RATIO"
    )
    max_looping: int | None = _option(
        "Fail if more than N outputs loop (repeat themselves) beyond those of the baseline.",
        None,
        metavar="N",
        least=0,
    )
    threads: int | None = _option("Threads for every model.  [default: torch's choice]", None, metavar="N", least=1)
    max_samples: int | None = _max_samples()
    normalize: str = _option(
        "How transcripts are normalized before comparing; basic and english are Whisper's normalizers.",
        "none",
        one_of=NORMALIZERS,
    )
    seed: int = _seed()
    others: tuple[str, ...] = _path("", (), argument=True, metavar="[MODEL]...")  # held to the same limits
    skip_bad: bool = _skip_bad()
    target_lang: str | None = _target_lang()
    language: str | None = _language()
    task: str = _task()
    beam_size: int = _beam_size()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_wer_increase", "min_speedup", "min_compression", "max_looping"):
            if getattr(self, name) is not None and self.baseline is None:
                raise InputError(f"{flag(name)} needs a model to compare with; add --baseline MODEL")


@dataclass(frozen=True)
class TranscribeOptions(Options):
    """What `sfm-quant transcribe` takes."""

    model: str = _model()
    recordings: tuple[str, ...] = _path("", argument=True, metavar="AUDIO...")
    as_json: bool = _option("The same as --format json.", False, flag="--json")
    format: str = _option(
        "txt: path, tab, text; json: a line of JSON (audio_filepath, duration, text); srt, vtt: subtitles of one "
        "recording.",
        "txt",
        one_of=FORMATS,
    )
    words: bool = _option("Add the start and end of each word, in seconds, to the JSON.", False)
    target_lang: str | None = _target_lang()
    language: str | None = _language()
    task: str = _task()
    beam_size: int = _beam_size()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.as_json and self.format not in ("txt", "json"):
            raise InputError(f"--json and --format {self.format} contradict each other; use one of them")
        if self.as_json:
            object.__setattr__(self, "format", "json")
        if self.words and self.format != "json":
            raise InputError("--words only affects the JSON; leave it out, or use --format json")


@dataclass(frozen=True)
class ReportOptions(Options):
    """What `sfm-quant inspect` takes for its report."""

    folder: str = _path("", argument=True, metavar="DIR")
    result: str | None = _path("For the report: the file from `sfm-quant eval --json`.", None, metavar="FILE")
    predictions: str | None = _path(
        "For the report: the file from `sfm-quant eval --predictions`.", None, metavar="FILE"
    )
    timing: bool = _option("For the report: measure where the time goes.", True, flag="--time/--no-time")
