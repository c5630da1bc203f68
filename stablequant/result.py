"""What an evaluation found: the JSON of `sfm-quant eval` and its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .metrics import Interval

SCHEMA = 1


@dataclass(frozen=True)
class Measured:
    """One model on the data."""

    path: str
    scheme: str
    bytes_on_disk: int
    wer_percent: float
    wer_ci95: Interval
    cer_percent: float
    substitutions: int  # of words, as the next two
    deletions: int
    insertions: int
    rtfx: float  # seconds of audio answered in a second, one utterance at a time
    rtfx_packed: float  # the same in the faster way: several utterances in one call where the model can
    latency_ms: dict[str, float]  # per utterance: "p50", "p95"
    peak_rss_bytes: int | None  # of a process that loads it and answers the longest utterance; None: not measured
    sites: dict[str, int]


@dataclass(frozen=True)
class Delta:
    """The model against the baseline."""

    wer_percent_points: float
    wer_ci95: Interval
    p_value: float
    speedup: float
    speedup_ci95: Interval
    speedup_packed: float  # each model in its faster way
    compression: float


@dataclass(frozen=True)
class Gate:
    name: str
    limit: float
    value: float
    passed: bool


@dataclass(frozen=True)
class Data:
    utterances: int
    words: int
    audio_seconds: float
    sha256: str  # of the decoded recordings and their references, wherever they lie and in any order


@dataclass(frozen=True)
class Result:
    """All that an evaluation found."""

    model: Measured
    baseline: Measured | None
    delta: Delta | None
    gates: tuple[Gate, ...]
    data: Data
    environment: dict[str, Any]
    normalize: str
    warnings: tuple[str, ...]
    predictions: tuple[dict[str, Any], ...]  # a NeMo manifest with what was recognised

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def to_json(self) -> str:
        """The result without the predictions, as `sfm-quant eval --json` writes it."""
        fields = {key: value for key, value in asdict(self).items() if key != "predictions"}
        return json.dumps({"schema": SCHEMA, **fields}, indent=1, allow_nan=False) + "\n"

    def predictions_jsonl(self) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.predictions)


def table(result: Result) -> str:
    """The result for a terminal."""
    columns = [each for each in (result.model, result.baseline) if each]
    rows = [["", "model", "baseline"][: 1 + len(columns)]]
    rows += [[name, *(view(each) for each in columns)] for name, view in ROWS]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *sentences(result)])


ROWS: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("path", lambda each: each.path),
    ("scheme", lambda each: each.scheme),
    ("WER %", lambda each: f"{each.wer_percent:.2f} [{each.wer_ci95[0]:.2f}, {each.wer_ci95[1]:.2f}]"),
    ("sub / del / ins", lambda each: f"{each.substitutions} / {each.deletions} / {each.insertions}"),
    ("CER %", lambda each: f"{each.cer_percent:.2f}"),
    ("speed, x real time", lambda each: f"{each.rtfx:.1f}"),
    ("the same, packed", lambda each: f"{each.rtfx_packed:.1f}"),
    ("latency ms, p50 / p95", lambda each: f"{each.latency_ms['p50']:.1f} / {each.latency_ms['p95']:.1f}"),
    ("MB on disk", lambda each: f"{each.bytes_on_disk / 1e6:.2f}"),
    ("MB of memory, peak", lambda each: f"{each.peak_rss_bytes / 1e6:.0f}" if each.peak_rss_bytes else "unknown"),
    ("sites", lambda each: ", ".join(f"{count} {kind}" for kind, count in each.sites.items() if count)),
)


def sentences(result: Result) -> Iterator[str]:
    """What the table does not hold: the data, the difference, the gates and the warnings, a line each."""
    data = result.data
    yield f"{data.words} words in {data.utterances} utterances, {data.audio_seconds:.1f} s; [ ] are 95 % intervals"
    if result.delta:
        delta = result.delta
        low, high = delta.wer_ci95
        yield f"WER {delta.wer_percent_points:+.2f} points [{low:+.2f}, {high:+.2f}], p = {delta.p_value:.2g}"
        low, high = delta.speedup_ci95
        yield f"{delta.speedup:.2f} times as fast [{low:.2f}, {high:.2f}], packed {delta.speedup_packed:.2f} times"
        yield f"{delta.compression:.2f} times smaller"
    for gate in result.gates:
        yield f"{'passed' if gate.passed else 'FAILED'}: {gate.name} {gate.limit:g}, found {gate.value:.4g}"
    yield from (f"warning: {warning}" for warning in result.warnings)
