"""What a model costs and gains: word errors, speed, bytes and memory, beside the model it was made from.

How speed is measured. Both models answer each utterance in turn, and who goes first alternates, so that a machine that
slows down slows both. Each answers twice: oneDNN compiles its kernels for every new input length, so the first answer
warms up and gives the hypothesis, the second is timed, after the other model has had the caches. Timed is all that
`Recognizer.transcribe` does: features, network and decoding, one utterance at a time, never padded. Loading and
resampling the recording is not. That is the latency, and `speedup` is its ratio.

A model that can pack also answers half a minute of utterances in one call, warmed up and timed likewise. Throughput
is that of each model's better way (the float model has only the one: two utterances at once on a core each were no
faster, scripts/LOG.md), and `speedup_packed` is its ratio.

An utterance too short for the model to give one frame counts as recognised as nothing: all its words are deletions.
It has no time, and is left out of the speed.

References and hypotheses are compared as they are by default ("none"): it is what the model's own vocabulary was
trained to write, nothing is forgiven silently, and a difference between two models shows in full. A warning says when
letter case makes most of the errors.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import operator
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from . import audio, memory, metrics, models, progress
from .audio import Utterance
from .engine import attention, kernels
from .errors import InputError
from .metrics import Counts
from .models import Recognizer
from .plan import read_plan
from .result import Data, Delta, Gate, Measured, Result
from .task import callable_module

ISA = frozenset(  # what decides the speed of integer kernels, as torch.cpu names it
    {
        "avx2",
        "avx512_f",
        "avx_vnni",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
        "neon",
        "dot",
        "i8mm",
        "sve",
    }
)


@dataclass(frozen=True)
class Options:
    """What to evaluate. Raises InputError when a gate has nothing to be compared with or a value makes no sense."""

    model: str
    data: str
    baseline: str | None = None
    max_wer_increase: float | None = None  # percentage points
    min_speedup: float | None = None
    min_compression: float | None = None
    threads: int | None = None  # None: torch's choice
    max_samples: int | None = None
    normalize: str = "none"  # one of metrics.NORMALIZERS
    seed: int = 0  # of the subset and the bootstrap

    def __post_init__(self) -> None:
        if self.normalize not in metrics.NORMALIZERS:
            raise InputError(f"no normalization {self.normalize!r}; choose one of {', '.join(metrics.NORMALIZERS)}")
        for name in ("max_wer_increase", "min_speedup", "min_compression"):
            limit = getattr(self, name)
            if limit is not None and self.baseline is None:
                raise InputError(f"--{name.replace('_', '-')} needs a model to compare with; add --baseline MODEL")
            if limit is not None and not math.isfinite(limit):
                raise InputError(f"--{name.replace('_', '-')} is {limit}; give a number")


@dataclass(frozen=True)
class Answer:
    text: str
    seconds: float | None  # None: the utterance is too short to be answered


@dataclass(frozen=True)
class Heard:
    """An utterance and what each model answered, in the order of the models."""

    utterance: Utterance
    seconds: float
    sha256: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Group:
    """Utterances that fit one packed call, and the seconds of each model to answer them so; None: it does not pack."""

    heard: list[Heard]
    packed_seconds: tuple[float | None, ...]


@dataclass(frozen=True)
class Tally:
    """What one model made of all utterances."""

    words: Counts
    characters: Counts
    seconds: np.ndarray  # (answered utterances,), the same utterances for every model
    group_seconds: np.ndarray  # (groups,), likewise


def evaluate(options: Options) -> Result:
    """Run the model, and the baseline beside it, over the data. Raises InputError for a bad model or bad data."""
    utterances = audio.read_utterances(
        options.data, require_text=True, max_samples=options.max_samples, seed=options.seed
    )
    normalize = metrics.normalizer(options.normalize)
    if not any(normalize(each.text or "") for each in utterances):
        raise InputError(f"{options.data}: the transcripts hold no words to count errors against; give others")
    recognizers = _load(options)
    with _threads(options.threads):
        groups = list(_hear_all(progress.bar(utterances, desc="recognise", unit="utt"), recognizers))
        longest = max(each.seconds for group in groups for each in group.heard)
        peaks = [memory.peak_rss_bytes(each.path, longest, torch.get_num_threads()) for each in recognizers]
        return _result(options, recognizers, groups, peaks)


def _load(options: Options) -> list[Recognizer]:
    """The model and, when there is one, the baseline."""
    recognizers = [models.load(path) for path in (options.model, options.baseline) if path is not None]
    rates = [each.sampling_rate for each in recognizers]
    if len(set(rates)) > 1:
        raise InputError(
            f"{options.baseline}: takes {rates[1]} Hz and the model {rates[0]} Hz; give its own float model"
        )
    return recognizers


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hear_all(utterances: Iterable[Utterance], recognizers: Sequence[Recognizer]) -> Iterator[Group]:
    """Every model's answers, a group at a time: no more audio than that is held."""
    rate, fewest = recognizers[0].sampling_rate, max(each.min_samples for each in recognizers)
    heard: list[Heard] = []
    waveforms: list[np.ndarray] = []
    for turn, utterance in enumerate(utterances):
        waveform = audio.load(utterance, rate)
        if heard and sum(map(len, waveforms)) + len(waveform) > models.PACK_SECONDS * rate:
            yield Group(heard, _hear_packed(waveforms, recognizers, turn))
            heard, waveforms = [], []
        heard.append(_hear(utterance, waveform, recognizers, turn))
        waveforms += [waveform] if len(waveform) >= fewest else []
    if heard:
        yield Group(heard, _hear_packed(waveforms, recognizers, len(heard)))


def _hear(utterance: Utterance, waveform: np.ndarray, recognizers: Sequence[Recognizer], turn: int) -> Heard:
    """Every model's answer to an utterance."""
    if len(waveform) < max(each.min_samples for each in recognizers):
        answers = [Answer("", None) for _ in recognizers]
    else:
        answers = [Answer(*each) for each in _in_turn(recognizers, turn, lambda model: model.transcribe(waveform))]
    seconds = len(waveform) / recognizers[0].sampling_rate
    return Heard(utterance, seconds, audio.content_hash(waveform), tuple(answers))


def _hear_packed(
    waveforms: list[np.ndarray], recognizers: Sequence[Recognizer], turn: int
) -> tuple[float | None, ...]:
    """The seconds of each model that packs to answer them in one call."""
    packing = [each for each in recognizers if each.packs and waveforms]
    answers = iter(_in_turn(packing, turn, lambda model: model.transcribe_all(waveforms)))
    return tuple(next(answers)[1] if each in packing else None for each in recognizers)


T = TypeVar("T")


def _in_turn(recognizers: Sequence[Recognizer], turn: int, answer: Callable[[Recognizer], T]) -> list[tuple[T, float]]:
    """What each model answers, and the seconds of its second answer; at odd turns the last model goes first."""
    step = -1 if turn % 2 else 1
    answers = [answer(each) for each in recognizers[::step]]
    seconds = [_timed(answer, each) for each in recognizers[::step]]
    return list(zip(answers, seconds, strict=True))[::step]


def _timed(answer: Callable[[Recognizer], T], recognizer: Recognizer) -> float:
    start = time.perf_counter()
    answer(recognizer)
    return time.perf_counter() - start


def _result(options: Options, recognizers: list[Recognizer], groups: list[Group], peaks: list[int | None]) -> Result:
    normalize = metrics.normalizer(options.normalize)
    tallies = [_tally(groups, place, normalize) for place in range(len(recognizers))]
    heard = [each for group in groups for each in group.heard]
    if not len(tallies[0].seconds):
        raise InputError(f"{options.data}: every recording is too short for the model; give longer ones")
    answered = sum(each.seconds for each in heard if each.answers[0].seconds is not None)
    measured = [_measured(*each, answered, options.seed) for each in zip(recognizers, tallies, peaks, strict=True)]
    delta = _delta(measured, tallies, options.seed) if options.baseline else None
    return Result(
        model=measured[0],
        baseline=measured[1] if options.baseline else None,
        delta=delta,
        gates=_gates(options, delta) if delta else (),
        data=_data(heard, tallies[0].words),
        environment=environment(options.seed),
        normalize=options.normalize,
        warnings=tuple(_warnings(options, recognizers, measured, tallies[0], groups)),
        predictions=tuple(_prediction(each) for each in heard),
    )


def _tally(groups: list[Group], place: int, normalize: Callable[[str], str]) -> Tally:
    """Errors and times of the model at `place`."""
    heard = [each for group in groups for each in group.heard]
    references = [normalize(each.utterance.text or "") for each in heard]
    hypotheses = [normalize(each.answers[place].text) for each in heard]
    alone = [[s for each in group.heard if (s := each.answers[place].seconds) is not None] for group in groups]
    packed = [group.packed_seconds[place] for group in groups]
    return Tally(
        words=metrics.count_words(references, hypotheses),
        characters=metrics.count_characters(references, hypotheses),
        seconds=np.concatenate([np.array(each) for each in alone]),
        group_seconds=_better_way(np.array([sum(each) for each in alone]), packed),
    )


def _better_way(alone: np.ndarray, packed: Sequence[float | None]) -> np.ndarray:
    """The seconds of all groups one utterance at a time or packed, whichever is less in all."""
    together = np.array([one if many is None else many for one, many in zip(alone, packed, strict=True)])
    return together if together.sum() < alone.sum() else alone


def _measured(recognizer: Recognizer, tally: Tally, peak: int | None, audio_seconds: float, seed: int) -> Measured:
    p50, p95 = np.percentile(1000 * tally.seconds, [50, 95])
    return Measured(
        path=recognizer.path,
        scheme=recognizer.scheme,
        bytes_on_disk=recognizer.bytes_on_disk(),
        wer_percent=tally.words.percent(),
        wer_ci95=metrics.interval(tally.words, seed),
        cer_percent=tally.characters.percent(),
        substitutions=int(tally.words.substitutions.sum()),
        deletions=int(tally.words.deletions.sum()),
        insertions=int(tally.words.insertions.sum()),
        rtfx=audio_seconds / float(tally.seconds.sum()),
        rtfx_packed=audio_seconds / float(tally.group_seconds.sum()),
        latency_ms={"p50": float(p50), "p95": float(p95)},
        peak_rss_bytes=peak,
        sites=recognizer.sites,
    )


def _delta(measured: list[Measured], tallies: list[Tally], seed: int) -> Delta:
    worse = metrics.compare(tallies[0].words, tallies[1].words, seed)
    faster = metrics.ratio(tallies[1].seconds, tallies[0].seconds, seed)
    packed = metrics.ratio(tallies[1].group_seconds, tallies[0].group_seconds, seed)
    return Delta(
        wer_percent_points=worse.points,
        wer_ci95=worse.ci95,
        p_value=worse.p_value,
        speedup=faster.value,
        speedup_ci95=faster.ci95,
        speedup_packed=packed.value,
        compression=measured[1].bytes_on_disk / measured[0].bytes_on_disk,
    )


def _gates(options: Options, delta: Delta) -> tuple[Gate, ...]:
    """The limits asked for, each on the point estimate; a value equal to its limit passes."""
    limits = (
        ("max_wer_increase", options.max_wer_increase, delta.wer_percent_points, operator.le),
        ("min_speedup", options.min_speedup, delta.speedup, operator.ge),
        ("min_compression", options.min_compression, delta.compression, operator.ge),
    )
    return tuple(
        Gate(name, limit, value, passes(value, limit)) for name, limit, value, passes in limits if limit is not None
    )


def _data(heard: list[Heard], words: Counts) -> Data:
    content = sorted(f"{each.sha256} {each.utterance.text}\n" for each in heard)
    return Data(
        utterances=len(heard),
        words=int(words.units.sum()),
        audio_seconds=sum(each.seconds for each in heard),
        sha256=hashlib.sha256("".join(content).encode(errors="backslashreplace")).hexdigest(),
    )


def environment(seed: int) -> dict[str, Any]:
    able = torch.cpu.get_capabilities()
    return {
        "cpu": _cpu_name(),
        "isa": sorted(name for name in ISA if able.get(name)),
        "kernels": kernels.way(),
        "attention": str(attention.number_format()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "stablequant")},
        "seed": seed,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _warnings(
    options: Options, recognizers: list[Recognizer], measured: list[Measured], tally: Tally, groups: list[Group]
) -> Iterator[str]:
    """What a reader of the numbers should know, a sentence each."""
    heard = [each for group in groups for each in group.heard]
    for recognizer in recognizers:
        yield from recognizer.notices
    short = sum(each.answers[0].seconds is None for each in heard)
    if short:
        yield f"{short} of {len(heard)} recordings are too short for the model and count as recognised as nothing"
    for each in measured:
        seen = _calibration_hashes(each.path) & {one.sha256 for one in heard}
        if seen:
            yield f"{len(seen)} of the recordings calibrated {each.path}: its error rate may flatter; use others"
        if each.peak_rss_bytes is None:
            yield f"{each.path}: its peak memory could not be measured, the process for it failed"
    caseless = _tally(groups, 0, lambda text: metrics.normalizer(options.normalize)(text).lower())
    if 2 * caseless.words.errors.sum() < tally.words.errors.sum():
        yield "most word errors are of letter case only; --normalize basic or english ignores case"


def _calibration_hashes(path: str) -> set[str]:
    plan = Path(path) / "plan.json"
    return set(read_plan(plan).calibration.get("audio_sha256", ())) if plan.is_file() else set()


def _prediction(heard: Heard) -> dict[str, Any]:
    """A row of a NeMo manifest; `time` is the seconds of the model's timed answer, null when there is none."""
    row = {
        "audio_filepath": str(heard.utterance.path.resolve()),
        "offset": heard.utterance.offset,
        "duration": heard.seconds,
        "text": heard.utterance.text,
    }
    if heard.utterance.speaker is not None:
        row["speaker"] = heard.utterance.speaker
    for prefix, answer in zip(("", "baseline_"), heard.answers, strict=False):
        row |= {f"{prefix}pred_text": answer.text, f"{prefix}time": answer.seconds}
    return row


callable_module(__name__)  # `from stablequant import evaluate`
