"""What a word error rate hides: rare words that were lost, and outputs that repeat themselves.

Rare words carry much of the meaning and little of the error rate: names, terms, numbers. A word of the references is
rare if it occurs once in all of them, letter case and punctuation around it aside, or contains a digit. So which words
are rare depends on the data set: compare models on the same one.

Models that write word after word, such as Whisper, sometimes lose the speech and repeat themselves. The test is the
one by which Whisper decodes a window of 30 s again: text that zlib makes more than 2.4 times smaller is a loop
(`compression_ratio_threshold` in whisper/transcribe.py of openai/whisper, the ratio in whisper/utils.py). Several kB
of plain text pass that ratio too, so longer text than is spoken in 30 s is tested in parts.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import jiwer
import numpy as np

from . import error_rates
from .error_rates import Counts, Interval

AROUND = re.compile(r"^\W+|\W+$")  # of a word: punctuation
THRESHOLD = 2.4  # of openai/whisper
WINDOW = 500  # bytes, about what is said in 30 s


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


def compression_ratio(text: str) -> float:
    """Bytes of the text in UTF-8 over those that zlib needs; of a long text, the highest among its equal parts."""
    content = text.encode(errors="surrogatepass")
    parts = max(1, -(-len(content) // WINDOW))
    ends = [len(content) * number // parts for number in range(parts + 1)]
    return max(_ratio(content[start:end]) for start, end in itertools.pairwise(ends))


def loops(text: str) -> bool:
    return compression_ratio(text) > THRESHOLD


def _ratio(content: bytes) -> float:
    return len(content) / len(zlib.compress(content))
