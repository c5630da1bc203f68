"""Where words were lost: utterances aligned word by word, and error rates by length, speaker and loudness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jiwer
import numpy as np

from ..evaluation import beyond_wer, error_rates
from ..evaluation.error_rates import Counts, Interval
from ..models.tasks.repetition import loops

WORST = 20  # utterances shown
SPEAKERS = 20  # shown, those that lose most
PARTS = 4  # of the utterances in order of their length or loudness
COLUMNS = 80  # words of one utterance shown


@dataclass(frozen=True)
class Row:
    """One utterance: its transcript, the model's text and, if known, the float model's."""

    name: str
    reference: str
    heard: str
    heard_in_float: str | None = None
    speaker: str | None = None
    seconds: float | None = None
    loudness: float | None = None  # dBFS

    @property
    def hypotheses(self) -> tuple[str, ...]:
        """The quantized model's last."""
        return (self.heard,) if self.heard_in_float is None else (self.heard_in_float, self.heard)


@dataclass(frozen=True)
class Column:
    """One place of an alignment: a word of the reference ("" for an insertion) and the recognised words."""

    reference: str
    heard: tuple[str, ...]  # by the float model, if known, and by the quantized one; "" is nothing

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(_kind(self.reference, word) for word in self.heard)

    @property
    def changed(self) -> bool:
        """Whether the two models recognised different words here."""
        return len(set(self.heard)) > 1


@dataclass(frozen=True)
class AlignedUtterance:
    row: Row
    errors: tuple[int, ...]  # of each hypothesis
    columns: tuple[Column, ...]
    looping: bool  # whether the quantized model's text repeats itself
    left_out: int  # columns before and after those


@dataclass(frozen=True)
class Group:
    """A group of utterances; rates in %."""

    name: str
    utterances: int
    words: int
    wer: tuple[float, ...]  # of the float model, where it is known, and of the quantized one
    points: float | None  # quantized - float
    ci95: Interval | None  # of the points; None for a single utterance


@dataclass(frozen=True)
class Kinds:
    """The errors of one model by kind, in % of the words."""

    model: str
    substitutions: float
    deletions: float
    insertions: float
    rare_recall: float | None  # % of the rare words
    looping: int  # outputs that repeat themselves


class Words:
    """All rows with their errors counted once.

    The float model is left out unless every row has its answer, so that both are compared on the same utterances.
    """

    def __init__(self, rows: Sequence[Row], normalize: str = "none") -> None:
        clean, paired = error_rates.normalizer(normalize), all(row.heard_in_float is not None for row in rows)
        self.rows = [
            replace(
                row,
                reference=clean(row.reference),
                heard=clean(row.heard),
                heard_in_float=clean(row.heard_in_float) if paired and row.heard_in_float is not None else None,
            )
            for row in rows
        ]
        self.models = ("float", "quantized") if paired else ("quantized",)
        self._references = [row.reference for row in self.rows]
        self._answers = list(zip(*(row.hypotheses for row in self.rows), strict=True))
        self._looping = np.array([[loops(text) for text in row.hypotheses[-len(self.models) :]] for row in rows])
        self.counts = [error_rates.count_words(self._references, hypotheses) for hypotheses in self._answers]

    def kinds(self) -> list[Kinds]:
        """Of each model; none if the transcripts have no words."""
        rare = beyond_wer.rare_words(self._references)
        found = zip(self.models, self.counts, self._answers, self._looping.sum(axis=0), strict=True)
        return [self._kinds(*each, rare) for each in found if each[1].units.any()]

    def worst(self) -> list[AlignedUtterance]:
        """The utterances that lost most words to quantization, then those with most errors."""
        errors = np.stack([counts.errors for counts in self.counts])
        order = np.lexsort((-errors[-1], errors[0] - errors[-1]))
        return [self._utterance(place, errors[:, place]) for place in order[:WORST] if errors[-1, place]]

    def by_length(self) -> list[Group]:
        return self._in_parts([row.seconds for row in self.rows], "s")

    def by_loudness(self) -> list[Group]:
        return self._in_parts([row.loudness for row in self.rows], "dBFS")

    def by_speaker(self) -> list[Group]:
        """Those with the largest loss first (without the float model: with the highest rate)."""
        places: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows):
            if row.speaker is not None:
                places.setdefault(row.speaker, []).append(place)
        groups = self._groups(places)
        return sorted(groups, key=lambda group: group.wer[-1] if group.points is None else group.points, reverse=True)

    def _kinds(
        self, model: str, counts: Counts, hypotheses: Sequence[str], looping: int, rare: frozenset[str]
    ) -> Kinds:
        edits = (counts.substitutions, counts.deletions, counts.insertions)
        substitutions, deletions, insertions = (100 * int(each.sum()) / int(counts.units.sum()) for each in edits)
        recall = beyond_wer.recall(beyond_wer.count_rare(self._references, hypotheses, rare))
        return Kinds(model, substitutions, deletions, insertions, recall[0] if recall else None, int(looping))

    def _utterance(self, place: int, errors: np.ndarray) -> AlignedUtterance:
        row = self.rows[place]
        columns = align(row.reference, *row.hypotheses)
        first = next(n for n, column in enumerate(columns) if column.kinds[-1] != "hit")
        start = max(0, min(first - 5, len(columns) - COLUMNS))
        shown = columns[start : start + COLUMNS]
        left_out = len(columns) - len(shown)
        return AlignedUtterance(row, tuple(map(int, errors)), tuple(shown), bool(self._looping[place, -1]), left_out)

    def _in_parts(self, values: Sequence[float | None], unit: str) -> list[Group]:
        """Groups of about as many utterances each, in order of a value; those without one are in none."""
        known = sorted((value, place) for place, value in enumerate(values) if value is not None)
        places: dict[str, list[int]] = {}
        for part in filter(len, np.array_split(np.arange(len(known)), PARTS)):
            chosen = [known[index] for index in part]
            places.setdefault(f"{chosen[0][0]:.1f} to {chosen[-1][0]:.1f} {unit}", []).extend(p for _, p in chosen)
        return self._groups(places)

    def _groups(self, places: dict[str, list[int]]) -> list[Group]:
        groups = [self._group(name, np.array(chosen)) for name, chosen in places.items()]
        return [group for group in groups if group.words]

    def _group(self, name: str, places: np.ndarray) -> Group:
        counts = [_chosen(each, places) for each in self.counts]
        words, points, ci95 = int(counts[0].units.sum()), None, None
        if words and len(counts) > 1:
            worse = error_rates.compare(counts[-1], counts[0])
            points, ci95 = worse.points, worse.ci95
        return Group(name, len(places), words, tuple(each.percent() for each in counts), points, ci95)


def align(reference: str, *hypotheses: str) -> list[Column]:
    """The words of a reference in order, each with the words of every hypothesis; insertions are between them."""
    words = reference.split()
    aligned = [_aligned(words, hypothesis.split()) for hypothesis in hypotheses]
    columns = []
    for place in range(len(words) + 1):
        inserted = [extra[place] for _, extra in aligned]
        for number in range(max(map(len, inserted))):
            columns.append(Column("", tuple(each[number] if number < len(each) else "" for each in inserted)))
        if place < len(words):
            columns.append(Column(words[place], tuple(heard[place] for heard, _ in aligned)))
    return columns


def _aligned(reference: list[str], heard: list[str]) -> tuple[list[str], list[list[str]]]:
    """The recognised word for each word ("" is nothing), and the words inserted before each and after the last."""
    at = [""] * len(reference)
    before: list[list[str]] = [[] for _ in range(len(reference) + 1)]
    (chunks,) = jiwer.process_words(" ".join(reference), " ".join(heard)).alignments
    for chunk in chunks:
        found = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            before[chunk.ref_start_idx] += found
        elif chunk.type != "delete":
            at[chunk.ref_start_idx : chunk.ref_end_idx] = found
    return at, before


def _kind(reference: str, heard: str) -> str:
    if reference == heard:
        return "hit"
    if not heard:
        return "deletion"
    return "substitution" if reference else "insertion"


def _chosen(counts: Counts, places: np.ndarray) -> Counts:
    columns = (counts.hits, counts.substitutions, counts.deletions, counts.insertions)
    return Counts(*(column[places] for column in columns))
