"""What a word error rate hides: rare words that were lost (and outputs that repeat themselves: tasks/repetition.py).

Rare words carry much of the meaning and little of the error rate: names, terms, numbers. A word of the references is
rare if it occurs once in all of them, letter case and punctuation around it aside, or contains a digit. So which words
are rare depends on the data set: compare models on the same one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import jiwer
import numpy as np

from . import error_rates
from .error_rates import Counts, Interval

AROUND = re.compile(r"^\W+|\W+$")  # of a word: punctuation


def rare_words(references: Sequence[str]) -> frozenset[str]:
    """The rare words of normalised references, as they are written there."""
    words = [word for reference in references for word in reference.split()]
    times = Counter(map(_bare, words))
    return frozenset(word for word in words if _once(word, times) or _has_digit(word))


def count_rare(references: Sequence[str], hypotheses: Sequence[str], rare: frozenset[str]) -> Counts:
    """Counts over the rare words of normalised references; words inserted between them are not counted."""
    kinds = {"equal": 0, "substitute": 1, "delete": 2}
    rows = np.zeros((4, len(references)), np.int64)
    aligned = jiwer.process_words(list(references), list(hypotheses)).alignments
    for column, (reference, chunks) in enumerate(zip(references, aligned, strict=True)):
        words = reference.split()
        for chunk in chunks:
            found = words[chunk.ref_start_idx : chunk.ref_end_idx]
            if chunk.type in kinds:
                rows[kinds[chunk.type], column] += sum(word in rare for word in found)
    return Counts(*rows)


def recall(counts: Counts, seed: int = 0) -> tuple[float, Interval | None] | None:
    """% of the rare words that were recognised, with its 95 % interval; None if there are none."""
    if not (units := int(counts.units.sum())):
        return None
    missed = error_rates.interval(counts, seed)
    return 100 * int(counts.hits.sum()) / units, missed and (100 - missed[1], 100 - missed[0])


def gain(counts: Counts, other: Counts, seed: int = 0) -> tuple[float, Interval | None] | None:
    """The recall minus the other's, in points, with its interval by the paired bootstrap; None without rare words."""
    if not counts.units.any():
        return None
    missed = error_rates.compare(counts, other, seed)
    return 0.0 - missed.points, missed.ci95 and (0.0 - missed.ci95[1], 0.0 - missed.ci95[0])


def _once(word: str, times: Counter[str]) -> bool:
    return times[_bare(word)] == 1 and bool(_bare(word))


def _bare(word: str) -> str:
    return AROUND.sub("", word.casefold())


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)
