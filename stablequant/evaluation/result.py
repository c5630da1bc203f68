"""The result of an evaluation: the JSON of `sfm-quant eval` and its table.

The JSON of one model has it as `model`, with its `delta` and `gates`. With several, these are the first one's, so that
programs written for one model still work; `models` lists all of them, each with its own `delta` and `gates`. The outer
`gates` hold the limits of all models; the names of those after the first end with the model: "min_speedup w6a6/".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..foundation.tables import columns
from .error_rates import Interval
from .predictions_file import Prediction, to_jsonl

SCHEMA = 1


@dataclass(frozen=True)
class Measured:
    """One model on the data."""

    path: str
    scheme: str
    bytes_on_disk: int
    wer_percent: float
    wer_ci95: Interval | None  # None for one utterance, as every interval
    cer_percent: float
    substitutions: int  # of words, as the next two
    deletions: int
    insertions: int
    rtfx: float  # seconds of audio answered in a second, one utterance at a time
    rtfx_packed: float  # the same in the faster way: several utterances in one call where the model can
    latency_ms: dict[str, float]  # per utterance: "p50", "p95"
    peak_rss_bytes: int | None  # of a process that loads it and answers the longest utterance; None: not measured
    sites: dict[str, int]
    float32_bytes: int  # of its parameters, were each stored in four bytes
    revision: str | None = None  # the commit, for a model of the hub
    target_lang: str | None = None  # of a model with adapters of languages
    # what a file of an earlier version does not have is None
    deletions_percent: float | None = None  # of the words, as the next
    insertions_percent: float | None = None
    looping: int | None = None  # outputs that repeat themselves (tasks/repetition.py)
    decoded_again: int | None = None  # outputs of which a part was decoded again, because it did
    rare_recall_percent: float | None = None  # of the rare words (beyond_wer.py); None: there are none
    rare_recall_ci95: Interval | None = None


@dataclass(frozen=True)
class Delta:
    """The model against the baseline."""

    wer_percent_points: float
    wer_ci95: Interval | None
    p_value: float | None  # None likewise
    speedup: float
    speedup_ci95: Interval | None
    speedup_packed: float  # each model in its faster way
    compression: float  # bytes of the baseline's files over the model's
    compression_float32: float  # bytes of the baseline's parameters in float32 over the model's files
    # None as above
    more_looping: int | None = None  # looping outputs, minus the baseline's
    rare_recall_points: float | None = None  # minus the baseline's
    rare_recall_ci95: Interval | None = None


@dataclass(frozen=True)
class Gate:
    name: str
    limit: float
    value: float
    passed: bool


@dataclass(frozen=True)
class Compared:
    """A model compared with the baseline, if there is one, and the limits that it was checked against."""

    model: Measured
    delta: Delta | None
    gates: tuple[Gate, ...]

    def to_entry(self) -> dict[str, Any]:
        return {**asdict(self.model), "delta": self.delta and asdict(self.delta), "gates": [*map(asdict, self.gates)]}


@dataclass(frozen=True)
class Data:
    utterances: int
    words: int
    audio_seconds: float
    sha256: str  # of the decoded recordings and their references, wherever they lie and in any order
    skipped_bad: int  # entries that could not be used
    rare_words: int | None = None  # of the words, those that are rare (beyond_wer.py)


@dataclass(frozen=True)
class Result:
    """Everything that an evaluation found."""

    models: tuple[Compared, ...]
    baseline: Measured | None
    data: Data
    environment: dict[str, Any]
    normalize: str
    warnings: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    decoding: dict[str, Any] | None = None  # language, task and beam_size, of models that generate text

    @property
    def model(self) -> Measured:
        """The first one."""
        return self.models[0].model

    @property
    def delta(self) -> Delta | None:
        return self.models[0].delta

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All limits; the names of those that are not the first model's end with the model."""
        others = [
            replace(gate, name=f"{gate.name} {each.model.path}") for each in self.models[1:] for gate in each.gates
        ]
        return (*self.models[0].gates, *others)

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> str:
        """The result without the predictions, as `sfm-quant eval --json` writes it."""
        found = {
            "schema": SCHEMA,
            "model": asdict(self.model),
            "baseline": self.baseline and asdict(self.baseline),
            "delta": self.delta and asdict(self.delta),
            "gates": [asdict(gate) for gate in self.gates],
            "data": asdict(self.data),
            "environment": self.environment,
            "normalize": self.normalize,
            "decoding": self.decoding,
            "warnings": self.warnings,
        }
        if len(self.models) > 1:
            found["models"] = [each.to_entry() for each in self.models]
        return json.dumps(found, indent=1, allow_nan=False) + "\n"

    def predictions_jsonl(self) -> str:
        return to_jsonl(self.predictions)


def table(result: Result) -> str:
    """The result for a terminal: a column for each model."""
    return "\n".join([*columns(cells(result)), "", *sentences(result)])


def cells(result: Result) -> list[list[str]]:
    """The rows of the table, the head first: a column of names, one for each model, the baseline last."""
    columns = [*result.models, *([Compared(result.baseline, None, ())] if result.baseline else [])]
    others = [f"model {number}" for number in range(2, len(result.models) + 1)]
    rows = [["", "model", *others, *(["baseline"] if result.baseline else [])]]
    rows += [[name, *(view(each.model) for each in columns)] for name, view in ROWS]
    if result.baseline:
        rows += [[name, *(view(each.delta) if each.delta else "" for each in columns)] for name, view in DELTA_ROWS]
    return rows


def _known(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _with_interval(value: float | None, interval: Interval | None, form: str = ".2f") -> str:
    ends = f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
    return _known(value, form) + ends


def _sites(counts: dict[str, int]) -> str:
    """As calibrate and inspect count them."""
    integer, simulated = (counts.get(kind, 0) for kind in ("integer", "simulated"))
    slower = f", {simulated} of them without integer kernels" if simulated else ""
    return f"{integer + simulated} of {sum(counts.values())}{slower}"


ROWS: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("path", lambda each: each.path),
    ("scheme", lambda each: each.scheme),
    ("WER %", lambda each: _with_interval(each.wer_percent, each.wer_ci95)),
    ("sub / del / ins", lambda each: f"{each.substitutions} / {each.deletions} / {each.insertions}"),
    (
        "deletions / insertions, %",
        lambda each: f"{_known(each.deletions_percent)} / {_known(each.insertions_percent)}",
    ),
    ("rare words recognised, %", lambda each: _with_interval(each.rare_recall_percent, each.rare_recall_ci95)),
    ("looping outputs", lambda each: _known(each.looping, "d")),
    ("outputs decoded again", lambda each: _known(each.decoded_again, "d")),
    ("CER %", lambda each: f"{each.cer_percent:.2f}"),
    ("speed, x real time", lambda each: f"{each.rtfx:.1f}"),
    ("the same, batched", lambda each: f"{each.rtfx_packed:.1f}"),
    ("latency ms, p50 / p95", lambda each: f"{each.latency_ms['p50']:.1f} / {each.latency_ms['p95']:.1f}"),
    ("MB on disk", lambda each: f"{each.bytes_on_disk / 1e6:.2f}"),
    ("peak memory, MB", lambda each: f"{each.peak_rss_bytes / 1e6:.0f}" if each.peak_rss_bytes else "unknown"),
    ("sites quantized", lambda each: _sites(each.sites)),
)


DELTA_ROWS: tuple[tuple[str, Callable[[Delta], str]], ...] = (
    ("WER increase, points", lambda delta: _with_interval(delta.wer_percent_points, delta.wer_ci95, "+.2f")),
    ("p-value", lambda delta: _known(delta.p_value, ".2g")),
    ("rare words, points", lambda delta: _with_interval(delta.rare_recall_points, delta.rare_recall_ci95, "+.2f")),
    ("more looping outputs", lambda delta: _known(delta.more_looping, "+d")),
    ("speed-up", lambda delta: _with_interval(delta.speedup, delta.speedup_ci95)),
    ("speed-up, batched", lambda delta: f"{delta.speedup_packed:.2f}"),
    ("times smaller, files", lambda delta: f"{delta.compression:.2f}"),
    ("times smaller than float32 parameters", lambda delta: f"{delta.compression_float32:.2f}"),
)


def sentences(result: Result) -> Iterator[str]:
    """What the table does not show: the data, the difference, the limits and the warnings, one line each."""
    data = result.data
    rare = "" if data.rare_words is None else f" ({data.rare_words} rare)"
    utterances = "utterance" if data.utterances == 1 else "utterances"
    about = f"{data.words} words{rare} in {data.utterances} {utterances}, {data.audio_seconds:.1f} s"
    alone = (
        "a 95 % interval needs more than one utterance" if result.model.wer_ci95 is None else "[ ] are 95 % intervals"
    )
    yield f"{about}; {alone}"
    yield "batched: several utterances in one call, if the model can do that (a float one cannot) and it is faster"
    yield from (gate_sentence(each, gate) for each in result.models for gate in each.gates)
    yield from (f"warning: {warning}" for warning in result.warnings)


OF = {  # what the limit is about, where its name leaves two ways to read it
    "min_compression": " times smaller than the baseline's files",
    "max_looping": " more outputs than the baseline's",
}


def gate_sentence(compared: Compared, gate: Gate) -> str:
    verdict = "passed" if gate.passed else "FAILED"
    return (
        f"{verdict}: {gate.name} {gate.limit:g}{OF.get(gate.name, '')}, found {gate.value:.4g} ({compared.model.path})"
    )
