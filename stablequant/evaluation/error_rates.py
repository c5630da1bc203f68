"""Word and character error rates with confidence intervals. Pure functions of strings and numbers.

Intervals come from the bootstrap over utterances (Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR
performance evaluation", ICASSP 2004): draw as many utterances as there are, with replacement, add up their errors and
words, divide; the 2.5th and 97.5th percentiles of 10,000 such rates are the interval. Two systems are compared on the
same draws (paired), which cancels what makes an utterance hard for both. Utterances of one speaker are not
independent: with few speakers the intervals are too narrow. All draws of one utterance are that utterance: it says
nothing of others, so there is no interval then, and no p-value.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

RESAMPLES = 10_000
CHUNK = 2**20  # draws held at once, 8 MB a column


def normalizer(name: str) -> Callable[[str], str]:
    """How reference and hypothesis are normalized before they are compared.

    none: nothing but canonical Unicode (NFC) and single spaces. basic and english are Whisper's (Radford et al. 2022):
    basic lowers the case and drops punctuation and text in brackets, in any language; it also splits at
    apostrophes and drops combining marks, which breaks words of Indic scripts. english expands contractions and titles
    and also writes numbers as digits; its table of British spellings is a file of Whisper's and is left empty here.
    """
    if name == "none":
        return _plain
    from transformers.models.whisper import english_normalizer as whisper

    whispers = {"basic": whisper.BasicTextNormalizer, "english": lambda: whisper.EnglishTextNormalizer({})}
    normalize = whispers[name]()
    return lambda text: _plain(normalize(text))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass(frozen=True)
class Counts:
    """Edits that turn references into hypotheses, each array (utterances,); a fewest-edits alignment of each pair."""

    hits: np.ndarray
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        return self.substitutions + self.deletions + self.insertions

    @property
    def units(self) -> np.ndarray:
        """Words (or characters) of the references."""
        return self.hits + self.substitutions + self.deletions

    def percent(self) -> float:
        """100 errors / units over all utterances: the word or character error rate. NaN when there are no units."""
        units = int(self.units.sum())
        return 100 * int(self.errors.sum()) / units if units else float("nan")


def count_words(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Counts over words; the strings are normalised already. An empty reference has 0 words and only insertions."""
    return _counts(jiwer.process_words(list(references), list(hypotheses)).alignments)


def count_characters(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Counts over characters (code points), spaces included, as jiwer and most papers count them."""
    return _counts(jiwer.process_characters(list(references), list(hypotheses)).alignments)


def errors_of_case(references: Sequence[str], hypotheses: Sequence[str], words: Counts) -> int:
    """How many of the word errors `words` are none without regard to letter case.

    Only utterances with errors and with a word in two cases are aligned again: lower case changes no other alignment.
    """
    pairs = zip(references, hypotheses, words.errors, strict=True)
    mixed = [(reference, hypothesis, errors) for reference, hypothesis, errors in pairs if errors]
    mixed = [each for each in mixed if _has_two_cases({*each[0].split(), *each[1].split()})]
    if not mixed:
        return 0
    caseless = count_words([each[0].lower() for each in mixed], [each[1].lower() for each in mixed])
    return int(sum(errors for _, _, errors in mixed) - caseless.errors.sum())


def _has_two_cases(words: set[str]) -> bool:
    return len({word.lower() for word in words}) < len(words)


def _counts(alignments: list[list[jiwer.AlignmentChunk]]) -> Counts:
    kinds = ("equal", "substitute", "delete", "insert")
    rows = np.zeros((len(kinds), len(alignments)), np.int64)
    for column, chunks in enumerate(alignments):
        for chunk in chunks:
            length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            rows[kinds.index(chunk.type), column] += length
    return Counts(*rows)


Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """How much worse a system is than another, on the same utterances."""

    points: float  # error rate minus the other's, in percent of the units
    ci95: Interval | None  # None for one utterance, as the next
    p_value: float | None


@dataclass(frozen=True)
class Ratio:
    value: float
    ci95: Interval | None


def interval(counts: Counts, seed: int = 0) -> Interval | None:
    """95 % interval of `counts.percent()`."""
    columns = np.stack([counts.errors, counts.units])
    return _ci95(_percent(*_resampled(columns, seed))) if _several(columns) else None


def compare(counts: Counts, other: Counts, seed: int = 0) -> Comparison:
    """The error rate minus the other's, with interval and two-sided p-value by the paired bootstrap.

    With d_b the difference on draw b of B, p = min(1, 2 min(1 + #{d_b <= 0}, 1 + #{d_b >= 0}) / (B + 1)): twice the
    share of draws on the other side of zero ("probability of improvement" in Bisani & Ney), never exactly 0.
    """
    more = counts.errors - other.errors
    units = counts.units
    points = 100 * int(more.sum()) / int(units.sum())
    if not _several(np.stack([counts.errors, other.errors, units])):
        return Comparison(points, None, None)
    differences = _percent(*_resampled(np.stack([more, units]), seed))
    tails = 1 + np.array([(differences <= 0).sum(), (differences >= 0).sum()])
    return Comparison(points, _ci95(differences), min(1.0, float(2 * tails.min() / (len(differences) + 1))))


Numbers = Sequence[float] | np.ndarray


def ratio(numerators: Numbers, denominators: Numbers, seed: int = 0) -> Ratio:
    """Sum over sum, as of seconds per utterance for a speed-up, with its 95 % spread over utterances."""
    columns = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)])
    value = float(columns[0].sum() / columns[1].sum())
    if not _several(columns):
        return Ratio(value, None)
    above, below = _resampled(columns, seed)
    return Ratio(value, _ci95(above / below))


def _several(columns: np.ndarray) -> bool:
    """Whether more than one utterance of columns (rows, n) counts: draws of a single one are all the same."""
    return int(columns.any(0).sum()) > 1


def _resampled(columns: np.ndarray, seed: int) -> np.ndarray:
    """Sums (rows, RESAMPLES) of columns (rows, n) over n of n utterances drawn with replacement, the same for all."""
    n = columns.shape[1]
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // n)
    sums = []
    for start in range(0, RESAMPLES, step):
        draws = min(step, RESAMPLES - start)
        places = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
        times = np.bincount(places.ravel(), minlength=draws * n).reshape(draws, n)  # how often each was drawn
        sums.append(columns.astype(float) @ times.T)
    return np.concatenate(sums, axis=1)


def _percent(errors: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Rates of the draws; a draw of empty references only has none and is left out."""
    some = units > 0
    return 100 * errors[some] / units[some]


def _ci95(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
