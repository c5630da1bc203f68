"""Subtitles from words with their times: SubRip (.srt) and WebVTT (.vtt).

A subtitle has at most two lines, of 42 letters or 16 characters of full width each, as most broadcasters have it. It
is cut between words, or between the parts of a text without spaces (models/tasks/unspaced.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ..models.tasks.base import Word, text_of

LONGEST = 6.0  # seconds that a subtitle is shown
LINE = 42.0  # letters
WIDE = LINE / 16  # letters for which a character of full width stands
PAUSE = 0.6  # seconds between words that part two of them
ENDS = (".", "?", "!", "。", "？", "！")
UNSEEN = frozenset({"Mn", "Me", "Cf"})  # categories of characters that take no room


def subtitles(words: Iterable[Word], format: str) -> str:
    """The file "srt" or "vtt" of words with times in seconds, in order."""
    cues = list(_cues(words))
    if format == "vtt":
        return "WEBVTT\n" + "".join(f"\n{_span(each, '.')}\n{escape(_shown(each), quote=False)}\n" for each in cues)
    return "\n".join(f"{number}\n{_span(each, ',')}\n{_shown(each)}\n" for number, each in enumerate(cues, 1))


def _cues(words: Iterable[Word]) -> Iterator[list[Word]]:
    cue: list[Word] = []
    for word in words:
        if cue and _is_full(cue, word):
            yield cue
            cue = []
        cue.append(word)
    if cue:
        yield cue


def _is_full(cue: Sequence[Word], following: Word) -> bool:
    text = text_of(cue)
    return (
        following.start - cue[-1].end > PAUSE
        or following.end - cue[0].start > LONGEST
        or max(map(_width, _lines([*cue, following]))) > LINE
        or (text.endswith(ENDS) and _width(text) >= LINE)
    )


def _lines(cue: Sequence[Word]) -> list[str]:
    """The text in one line if it fits, else in two that are as equal as words allow."""
    text = text_of(cue)
    if _width(text) <= LINE or len(cue) == 1:
        return [text]
    parted = ([text_of(cue[:n]), text_of(cue[n:])] for n in range(1, len(cue)))
    return min(parted, key=lambda lines: max(map(_width, lines)))


def _width(text: str) -> float:
    """In letters."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    unseen = sum(unicodedata.category(each) in UNSEEN for each in text)
    return len(text) - unseen + (WIDE - 1) * wide


def _shown(cue: Sequence[Word]) -> str:
    return "\n".join(_lines(cue))


def _span(cue: Sequence[Word], point: str) -> str:
    return f"{_clock(cue[0].start, point)} --> {_clock(max(cue[-1].end, cue[0].start + 0.001), point)}"


def _clock(seconds: float, point: str) -> str:
    """hours:minutes:seconds and thousandths after a point or comma."""
    whole = round(1000 * seconds)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
