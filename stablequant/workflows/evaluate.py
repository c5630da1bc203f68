"""What quantized models cost and gain: word errors, speed, size and memory, compared with the original model.

evaluation/timing.py explains how speed is measured, evaluation/error_rates.py how confidence intervals are computed.

By default references and hypotheses are compared as they are ("none"): this is what the model was trained to write,
nothing is forgiven silently, and a difference between two models shows in full. A warning says if most errors are of
letter case, or if the vocabulary cannot write the transcripts.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch

from ..evaluation import beyond_wer, error_rates, peak_memory
from ..evaluation.environment import environment
from ..evaluation.error_rates import Counts
from ..evaluation.predictions_file import ModelAnswer, Prediction
from ..evaluation.result import Compared, Data, Delta, Gate, Measured, Result
from ..evaluation.timing import Batch, TimedUtterance, timed_batches
from ..foundation import progress
from ..foundation.errors import InputError
from ..foundation.options import EvaluateOptions
from ..models.checkpoint import read
from ..models.recognizer import Recognizer
from ..models.tasks.base import Decoding
from ..models.tasks.repetition import loops
from ..speech import audio
from ..speech.audio import Listing, Utterance

UNWRITABLE = 0.1  # share of the words that the vocabulary cannot spell, above which there is a warning


@dataclass(frozen=True)
class Tally:
    """One model's errors and times on all utterances."""

    words: Counts
    of_case: int  # of the word errors, those that vanish if letter case is ignored
    characters: Counts
    rare: Counts
    looping: int  # outputs
    decoded_again: int  # outputs, because they looped
    seconds: np.ndarray  # (answered utterances,), the same utterances for every model
    batch_seconds: np.ndarray  # (batches,), likewise


def evaluate(options: EvaluateOptions) -> Result:
    """Run the models and the baseline over the data. Raises InputError for a bad model or bad data."""
    listed = _listing(options)
    recognizers = _load(options)
    found, facts = audio.decoded(listed, recognizers[0].sampling_rate, skip_bad=options.skip_bad)
    with _threads(options.threads):
        where = environment(options.seed)  # all that can fail comes before the work
        pairs = list(zip(found.utterances, facts, strict=True))
        batches = list(timed_batches(progress.bar(pairs, desc="recognise", unit="utt"), recognizers))
        longest = max(each.seconds for batch in batches for each in batch.utterances)
        threads = torch.get_num_threads()
        peaks = [peak_memory.peak_rss_bytes(each.folder, longest, threads, each.target_lang) for each in recognizers]
    return _result(options, found, recognizers, batches, peaks, where)


def _listing(options: EvaluateOptions) -> Listing:
    """The usable part of the data; InputError if no transcript has words."""
    found = audio.listing(
        options.data,
        require_text=True,
        max_samples=options.max_samples,
        seed=options.seed,
        skip_bad=options.skip_bad,
    )
    normalize = error_rates.normalizer(options.normalize)
    if not any(normalize(each.text or "") for each in found.utterances):
        raise InputError(f"{options.data}: the transcripts contain no words to count errors against; use others")
    return found


def _load(options: EvaluateOptions) -> list[Recognizer]:
    """The models in their order and, when there is one, the baseline last."""
    paths = (options.model, *options.others, options.baseline)
    decoding = Decoding(options.language, options.task == "translate", options.beam_size, not options.no_fallback)
    loaded = [read.load(path, options.target_lang, decoding) for path in paths if path is not None]
    rate = loaded[0].sampling_rate
    for each in loaded:
        if each.sampling_rate != rate:
            raise InputError(
                f"{each.path}: needs {each.sampling_rate} Hz and the first model {rate} Hz; compare models of one rate"
            )
    return loaded


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(
    options: EvaluateOptions,
    found: Listing,
    recognizers: list[Recognizer],
    batches: list[Batch],
    peaks: list[int | None],
    where: dict[str, Any],
) -> Result:
    normalize = error_rates.normalizer(options.normalize)
    tallies = [_tally(batches, place, normalize) for place in range(len(recognizers))]
    timed = [each for batch in batches for each in batch.utterances]
    if not len(tallies[0].seconds):
        raise InputError(f"{options.data}: every recording is too short for the model; use longer ones")
    answered = sum(each.seconds for each in timed if each.answers[0].seconds is not None)
    measured = [_measured(*each, answered, options.seed) for each in zip(recognizers, tallies, peaks, strict=True)]
    compared = _compared(options, measured, tallies)
    return Result(
        models=compared,
        baseline=measured[-1] if options.baseline else None,
        data=_data(timed, tallies[0], found.skipped),
        environment=where,
        normalize=options.normalize,
        decoding=_decoding(options, recognizers),
        warnings=(
            *(f"left out: {sentence}" for sentence in audio.told(found.problems)),
            *_warnings(options, recognizers, measured, tallies[0], timed),
            *_wide_intervals(compared),
        ),
        predictions=tuple(_prediction(each, options) for each in timed),
    )


def _decoding(options: EvaluateOptions, recognizers: list[Recognizer]) -> dict[str, Any] | None:
    """The settings that every model that generates text had."""
    if not any(each.geometry.window for each in recognizers):
        return None
    return {
        "language": options.language,
        "task": options.task,
        "beam_size": options.beam_size,
        "fallback": not options.no_fallback,
    }


def _compared(options: EvaluateOptions, measured: list[Measured], tallies: list[Tally]) -> tuple[Compared, ...]:
    """Each model against the baseline, which is the last of them, if there is one."""
    if options.baseline is None:
        return tuple(Compared(each, None, ()) for each in measured)
    deltas = [
        _delta(each, measured[-1], tally, tallies[-1], options.seed)
        for each, tally in zip(measured[:-1], tallies[:-1], strict=True)
    ]
    return tuple(
        Compared(each, delta, _gates(options, delta)) for each, delta in zip(measured[:-1], deltas, strict=True)
    )


def _tally(batches: list[Batch], place: int, normalize: Callable[[str], str]) -> Tally:
    """Errors and times of the model at `place`."""
    timed = [each for batch in batches for each in batch.utterances]
    references = [normalize(each.utterance.text or "") for each in timed]
    hypotheses = [normalize(each.answers[place].text) for each in timed]
    alone = [[s for each in batch.utterances if (s := each.answers[place].seconds) is not None] for batch in batches]
    batched = [batch.batched_seconds[place] for batch in batches]
    words = error_rates.count_words(references, hypotheses)
    rare = beyond_wer.rare_words(references)
    return Tally(
        words=words,
        of_case=error_rates.errors_of_case(references, hypotheses, words),
        characters=error_rates.count_characters(references, hypotheses),
        rare=beyond_wer.count_rare(references, hypotheses, rare),
        looping=sum(loops(each.answers[place].text) for each in timed),
        decoded_again=sum(each.answers[place].temperature > 0 for each in timed),
        seconds=np.concatenate([np.array(each) for each in alone]),
        batch_seconds=_better_way(np.array([sum(each) for each in alone]), batched),
    )


def _better_way(alone: np.ndarray, batched: Sequence[float | None]) -> np.ndarray:
    """The seconds of all batches, one utterance at a time or in one call, whichever is less in total."""
    together = np.array([one if many is None else many for one, many in zip(alone, batched, strict=True)])
    return together if together.sum() < alone.sum() else alone


def _measured(recognizer: Recognizer, tally: Tally, peak: int | None, audio_seconds: float, seed: int) -> Measured:
    p50, p95 = np.percentile(1000 * tally.seconds, [50, 95])
    words, deletions, insertions = (
        int(each.sum()) for each in (tally.words.units, tally.words.deletions, tally.words.insertions)
    )
    recall, recall_ci95 = beyond_wer.recall(tally.rare, seed) or (None, None)
    return Measured(
        path=recognizer.path,
        scheme=recognizer.scheme,
        bytes_on_disk=recognizer.bytes_on_disk,
        float32_bytes=recognizer.float32_bytes,
        revision=recognizer.revision,
        target_lang=recognizer.target_lang,
        wer_percent=tally.words.percent(),
        wer_ci95=error_rates.interval(tally.words, seed),
        cer_percent=tally.characters.percent(),
        substitutions=int(tally.words.substitutions.sum()),
        deletions=deletions,
        insertions=insertions,
        rtfx=audio_seconds / float(tally.seconds.sum()),
        rtfx_packed=audio_seconds / float(tally.batch_seconds.sum()),
        latency_ms={"p50": float(p50), "p95": float(p95)},
        peak_rss_bytes=peak,
        sites=recognizer.sites,
        deletions_percent=100 * deletions / words,
        insertions_percent=100 * insertions / words,
        looping=tally.looping,
        decoded_again=tally.decoded_again,
        rare_recall_percent=recall,
        rare_recall_ci95=recall_ci95,
    )


def _delta(model: Measured, baseline: Measured, ours: Tally, theirs: Tally, seed: int) -> Delta:
    worse = error_rates.compare(ours.words, theirs.words, seed)
    faster = error_rates.ratio(theirs.seconds, ours.seconds, seed)
    batched = error_rates.ratio(theirs.batch_seconds, ours.batch_seconds, seed)
    gain, gain_ci95 = beyond_wer.gain(ours.rare, theirs.rare, seed) or (None, None)
    return Delta(
        wer_percent_points=worse.points,
        wer_ci95=worse.ci95,
        p_value=worse.p_value,
        speedup=faster.value,
        speedup_ci95=faster.ci95,
        speedup_packed=batched.value,
        compression=baseline.bytes_on_disk / model.bytes_on_disk,
        compression_float32=baseline.float32_bytes / model.bytes_on_disk,
        more_looping=ours.looping - theirs.looping,
        rare_recall_points=gain,
        rare_recall_ci95=gain_ci95,
    )


def _gates(options: EvaluateOptions, delta: Delta) -> tuple[Gate, ...]:
    """The limits asked for, each on the point estimate; a value equal to its limit passes."""
    limits = (
        ("max_wer_increase", options.max_wer_increase, delta.wer_percent_points, operator.le),
        ("min_speedup", options.min_speedup, delta.speedup, operator.ge),
        ("min_compression", options.min_compression, delta.compression, operator.ge),
        ("max_looping", options.max_looping, delta.more_looping or 0, operator.le),
    )
    return tuple(
        Gate(name, limit, value, passes(value, limit)) for name, limit, value, passes in limits if limit is not None
    )


def _data(timed: list[TimedUtterance], tally: Tally, skipped: int) -> Data:
    content = sorted(f"{each.facts.sha256} {each.utterance.text}\n" for each in timed)
    return Data(
        utterances=len(timed),
        words=int(tally.words.units.sum()),
        audio_seconds=sum(each.seconds for each in timed),
        sha256=hashlib.sha256("".join(content).encode(errors="backslashreplace")).hexdigest(),
        skipped_bad=skipped,
        rare_words=int(tally.rare.units.sum()),
    )


def _warnings(
    options: EvaluateOptions,
    recognizers: list[Recognizer],
    measured: list[Measured],
    tally: Tally,
    timed: list[TimedUtterance],
) -> Iterator[str]:
    """What a reader of the numbers should know, one sentence each."""
    for recognizer in recognizers:
        yield from (*recognizer.remarks, *recognizer.notices)
    short = sum(each.answers[0].seconds is None for each in timed)
    if short:
        yield f"{short} of {len(timed)} recordings are too short for the model and are scored as empty transcripts"
    if empty := sum(not (each.utterance.text or "").strip() for each in timed):
        yield f"{empty} of {len(timed)} transcripts are empty; everything recognised there counts as inserted words"
    for recognizer in recognizers:
        if seen := recognizer.calibrated_on & {one.facts.sha256 for one in timed}:
            yield (
                f"{len(seen)} of these recordings were used to calibrate {recognizer.path}, so its WER is optimistic; "
                "evaluate on others"
            )
    for each in measured:
        if each.peak_rss_bytes is None:
            yield f"{each.path}: its peak memory could not be measured, because the process for it failed"
    if options.normalize == "none":
        yield from _unwritable(recognizers[0], [each.utterance.text or "" for each in timed])
    if 2 * tally.of_case > tally.words.errors.sum():
        yield "most word errors are only of letter case; --normalize basic or english ignores case"


def _unwritable(recognizer: Recognizer, references: list[str]) -> Iterator[str]:
    """A warning if the transcripts are in another script or language than the model's."""
    words = [word for text in references for word in text.split()]
    wrong = recognizer.task.unwritable(words, recognizer.processor.tokenizer)
    if len(wrong) > UNWRITABLE * len(words):
        some = ", ".join(sorted(set(wrong))[:3])
        yield (
            f"{len(wrong)} of {len(words)} words of the transcripts ({some}, ...) cannot be written with the "
            f"vocabulary of {recognizer.path}, so they always count as errors; use other transcripts or --normalize"
        )


def _wide_intervals(compared: tuple[Compared, ...]) -> Iterator[str]:
    """A warning for each limit on speed that chance may decide, not the model."""
    for each in compared:
        for gate in each.gates:
            if gate.name == "min_speedup" and each.delta and (why := _by_chance(gate.limit, each.delta.speedup_ci95)):
                yield (
                    f"{each.model.path}: min_speedup {gate.limit:g} is {why}, so chance may decide; measure more "
                    "utterances on a quiet machine"
                )


def _by_chance(limit: float, interval: error_rates.Interval | None) -> str | None:
    """Why chance may decide a limit; None if it is clear."""
    if interval is None:
        return "held against one utterance"
    low, high = interval
    return f"inside the confidence interval of the speed-up [{low:.2f}, {high:.2f}]" if low < limit < high else None


def _prediction(timed: TimedUtterance, options: EvaluateOptions) -> Prediction:
    paths = (options.model, *options.others, *([options.baseline] if options.baseline else []))
    answers = [ModelAnswer(path, *astuple(answer)) for path, answer in zip(paths, timed.answers, strict=True)]
    return Prediction(
        audio_filepath=_path(timed.utterance),
        offset=timed.utterance.offset,
        duration=timed.seconds,
        loudness_dbfs=timed.facts.loudness_dbfs,
        text=timed.utterance.text or "",
        speaker=timed.utterance.speaker,
        baseline=answers.pop() if options.baseline else None,
        answers=tuple(answers),
    )


def _path(utterance: Utterance) -> str:
    """The path of the file; a recording inside a data set has none, so its place there is used."""
    return str(utterance.path.resolve()) if utterance.content is None else utterance.source
