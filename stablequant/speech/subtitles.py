"""Subtitles from words with their times: SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ..models.tasks.base import Word

LONGEST = 6.0  # seconds that a subtitle is shown
CHARACTERS = 84  # of one: two lines of 42, as most broadcasters have it
PAUSE = 0.6  # seconds between words that part two of them
ENDS = (".", "?", "!", "。", "？", "！")
ENOUGH = 42  # characters after which the end of a sentence parts them


def subtitles(words: Iterable[Word], format: str) -> str:
    """The file "srt" or "vtt" of words with times in seconds, in order."""
    cues = list(_cues(words))
    if format == "vtt":
        return "WEBVTT\n" + "".join(f"\n{_span(each, '.')}\n{escape(_text(each), quote=False)}\n" for each in cues)
    return "\n".join(f"{number}\n{_span(each, ',')}\n{_text(each)}\n" for number, each in enumerate(cues, 1))


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
    text = _text(cue)
    return (
        following.start - cue[-1].end > PAUSE
        or following.end - cue[0].start > LONGEST
        or len(text) + 1 + len(following.word) > CHARACTERS
        or (text.endswith(ENDS) and len(text) >= ENOUGH)
    )


def _text(cue: Iterable[Word]) -> str:
    return " ".join(each.word for each in cue)


def _span(cue: Sequence[Word], point: str) -> str:
    return f"{_clock(cue[0].start, point)} --> {_clock(max(cue[-1].end, cue[0].start + 0.001), point)}"


def _clock(seconds: float, point: str) -> str:
    """hours:minutes:seconds and thousandths after a point or comma."""
    whole = round(1000 * seconds)
    minutes, rest = divmod(whole, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
