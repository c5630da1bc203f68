"""A recording of any length, cut into pieces that fit a model: at pauses, otherwise where it is quietest.

Why at every pause, and not every half minute: group norm and the feature extractor's normalisation (`do_normalize`)
take their statistics from the whole input, so a soft speaker next to a loud one, or speech next to silence, is
recognised differently than alone. What is between two pauses is an utterance, which is what models are trained on. Cut
at pauses, with each piece normalised alone, a sequence of utterances is recognised like the single utterances; cut
every 26 s with overlap, it cost 3 to 15 points (scripts/LOG.md).

A pause is PAUSE seconds of quiet. Quiet is the lowest quarter between the soft and the loud parts of the current half
minute, in dB, so that neither the level nor the noise of the recording matters. PAD seconds of a pause stay on either
side of it. Speech without a pause for LONGEST seconds is cut at a quiet place, and both pieces reach MARGIN seconds
beyond the cut, so that each has the context it needs and the place to join their symbols can be chosen (longform.py).

A model that takes windows of one length costs the same for a word as for half a minute. For it, what lies between
pauses is put together as long as it fits, and cut without overlap; only a pause of APART seconds still parts pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter1d

LONGEST = 30.0  # seconds of a piece: attention needs memory in the square of its length
MARGIN = 2.0  # seconds on either side of such a cut that both pieces contain
PAUSE = 0.25  # seconds
PAD = 0.05  # seconds
APART = 2.0  # seconds
WORD = 0.2  # seconds: what is shorter between two pauses is no word, and stays with the one before
QUIET = 0.25  # of the way from soft to loud
STEADY = 10.0  # dB: with less from soft to loud, nothing tells a pause from speech
HOP = 0.01  # seconds from one level to the next
SMOOTH = 3  # levels that are averaged to one
SILENCE = 1e-10  # power that is added, so that digital silence has a level (-100 dB)


@dataclass(frozen=True)
class Piece:
    """A part of a recording."""

    start: int  # its first sample in the recording
    waveform: np.ndarray  # (samples,) float32
    shared: int = 0  # its first samples that are also the last of the piece before; 0 after a pause


@dataclass(frozen=True)
class _Cutting:
    """How a recording is cut."""

    rate: int  # Hz
    stride: int  # samples from one frame to the next
    seconds: float  # of the longest piece
    overlap: bool  # of pieces that are cut without a pause; else a piece holds as much as fits

    @property
    def margin(self) -> float:
        """Seconds."""
        return MARGIN if self.overlap else 0.0

    @property
    def longest(self) -> int:
        return round(self.seconds * self.rate)


def pieces(
    blocks: Iterable[np.ndarray], rate: int, stride: int, longest: float = LONGEST, *, overlap: bool = True
) -> Iterator[Piece]:
    """The pieces of a waveform in blocks (samples,) at `rate` Hz, in order, none longer than `longest` seconds.

    Those that share samples start a multiple of `stride` samples apart, so that their frames lie on each other;
    without `overlap` none do, and a piece holds as much as fits.
    """
    how = _Cutting(rate, stride, longest, overlap)
    held, limit = Piece(0, np.zeros(0, np.float32)), -np.inf
    for block in blocks:
        held = replace(held, waveform=np.concatenate([held.waveform, block]))
        while len(held.waveform) > how.longest:
            limit = _limit(held, how, limit)
            found, held = _advance(held, how, limit)
            yield from found
    yield from _parts(held, _speech(held, rate, _limit(held, how, limit)), how)


def _advance(held: Piece, how: _Cutting, limit: float) -> tuple[list[Piece], Piece]:
    """The pieces that end within the longest one, and what is left from there on."""
    longest = how.longest
    spans = _speech(_part(held, 0, longest), how.rate, limit)
    unfinished = [span for span in spans if span[1] == longest]
    if unfinished == [(0, longest)]:
        return _cut(held, how)
    begin = unfinished[0][0] if unfinished else longest - round(PAD * how.rate)
    found = _parts(held, [span for span in spans if span not in unfinished], how)
    return found, _part(held, begin, len(held.waveform))


def _cut(held: Piece, how: _Cutting) -> tuple[list[Piece], Piece]:
    """The piece before the quietest place of its second half, and what follows; both with the margin."""
    stride, rate = how.stride, how.rate
    places = how.seconds / 2, how.seconds - how.margin, how.margin
    first, last, margin = (round(seconds * rate / stride) for seconds in places)
    levels = _levels(held.waveform[first * stride : last * stride], stride, round(PAUSE * rate / stride))
    cut = first + int(levels.argmin())
    begin, end = (cut - margin) * stride, (cut + margin) * stride
    return [_part(held, 0, end)], replace(_part(held, begin, len(held.waveform)), shared=end - begin)


def _parts(held: Piece, spans: list[tuple[int, int]], how: _Cutting) -> list[Piece]:
    """The pieces of what lies between pauses: each its own, or together those that are not far apart."""
    together: list[tuple[int, int]] = []
    for begin, end in spans:
        if together and not how.overlap and begin - together[-1][1] <= APART * how.rate:
            begin = together.pop()[0]
        together.append((begin, end))
    return [_part(held, *span) for span in together]


def _part(held: Piece, begin: int, end: int) -> Piece:
    return Piece(held.start + begin, held.waveform[begin:end], held.shared if begin == 0 else 0)


def _limit(held: Piece, how: _Cutting, before: float) -> float:
    """The level (dB) below which the first seconds are quiet; the previous one if the level does not vary."""
    levels = _levels(held.waveform[: how.longest], round(HOP * how.rate), SMOOTH)
    soft, loud = np.percentile(levels, [5, 99]) if len(levels) else (0.0, 0.0)
    return float(soft + QUIET * (loud - soft)) if loud - soft > STEADY else before


def _speech(held: Piece, rate: int, limit: float) -> list[tuple[int, int]]:
    """What lies between the pauses of a piece, as (first sample, sample after the last)."""
    hop, pad, end = round(HOP * rate), round(PAD * rate), len(held.waveform)
    spans, begin = [], 0
    quiet = _levels(held.waveform, hop, SMOOTH) < limit
    quiet[: -(-held.shared // hop)] = False  # the piece before, which knew what follows, took it for speech
    for first, last in _pauses(quiet):
        if first > 0:
            spans.append((begin, first * hop + pad))
        begin = max(0, last * hop - pad)
    return [*spans, (begin, end)] if end - begin > pad + hop else spans  # a pause at the end leaves its pad


def _pauses(quiet: np.ndarray) -> list[tuple[int, int]]:
    """(first level, level after the last) of each pause, from which levels are quiet."""
    found: list[tuple[int, int]] = []
    for first, last in np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2).tolist():
        if first > 0 and last - first < PAUSE / HOP:  # at the start it is the rest of a pause
            continue
        if found and first - found[-1][1] < WORD / HOP:  # the release of a final stop, or a click
            found.pop()
        found.append((first, last))
    return found


def _levels(waveform: np.ndarray, hop: int, width: int) -> np.ndarray:
    """Levels in dB of every whole `hop` samples, averaged over `width` of them."""
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    power = uniform_filter1d(np.square(frames, dtype=np.float64).mean(1), width, mode="nearest")
    return 10 * np.log10(power + SILENCE)
