"""One recording as a mono waveform, whole or in blocks, and the facts that one pass over it finds.

Which waveforms are accepted, the same for calibration and evaluation:

- empty, silent or clipped: kept. A word error rate must not leave out the hard recordings. A waveform may be shorter
  than the model needs; the caller compares its length with `Recognizer.min_samples`.
- NaN, infinite or absurd samples: refused, because they are not sound. Samples beyond full scale are kept as they are.
- several channels: averaged. A silent one makes the result quieter. If they cancel each other (one with reversed
  polarity), the average would be silence, and the recording is refused.
- a length in a header: only a claim. The file is decoded to its end; a recording that is more than a second shorter
  than its header or its list says was cut off, and is refused.
- any length: `load` reads it whole, so memory is the only limit (64 kB a second at 16 kHz); `blocks` does not.
- any sampling rate: resampled by soxr's stream, whose samples do not depend on how the sound is cut into blocks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from ..foundation.errors import InputError
from .audio_files import kinds
from .audio_files.opening import LOUDEST, Sound, opened
from .layouts._entries import Utterance

__all__ = ["Facts", "blocks", "facts", "irregular", "length", "load"]

STDIN = "-"
ROUNDING = 0.1  # seconds: manifests round durations; a segment that ends this near to the file's end ends with it
MISSING = 1.0  # seconds: a recording this much shorter than it says was cut off, so its transcript does not fit
BLOCK = 10.0  # seconds that `blocks` reads at a time
CHANNELS = 8  # with more channels than these, blocks are shorter
CANCELLED = 1e-3  # of the power that the mean of unrelated channels has


@dataclass(frozen=True)
class Facts:
    """What one pass over a recording finds, at the requested sampling rate."""

    samples: int
    sha256: str  # of the samples as little-endian float32: the same for a copied or renamed recording
    loudness_dbfs: float | None  # root mean square; a square wave of full scale has 0, and silence None
    constant: bool  # one value throughout, as digital silence is: normalised, nothing is left of it


def load(utterance: Utterance, sampling_rate: int, most: int | None = None) -> np.ndarray:
    """The utterance as float32 mono (samples,) at `sampling_rate` Hz: channels averaged, then resampled.

    With `most` only its first samples, and what follows them is not decoded.

    Raises InputError when the file is missing, empty, corrupt or cut off, when the offset lies past its end, and when
    samples are not sound.
    """
    parts, count = [np.zeros(0, np.float32)], 0
    for block in blocks(utterance, sampling_rate):
        parts.append(block)
        count += len(block)
        if most is not None and count >= most:
            break
    return np.concatenate(parts)[:most]


def blocks(utterance: Utterance, sampling_rate: int) -> Iterator[np.ndarray]:
    """The same samples as `load`, some seconds (samples,) at a time, so that memory is bounded.

    Raises InputError like `load`, but only at the block that has the problem.
    """
    with _opened(utterance) as sound:
        yield from _resampled(_mono(_span(sound, utterance), utterance), sound.rate, sampling_rate)


def length(utterance: Utterance) -> float:
    """Its length in seconds; raises InputError like `load` for the problems that this shows.

    If the header's count of samples can be trusted, the header and a look at the end are enough; else it is decoded.
    """
    with _opened(utterance) as sound:
        if sound.frames is None:
            return sum(map(len, _span(sound, utterance))) / sound.rate
        start, stop = _bounds(utterance, sound.rate)
        end = sound.frames if stop is None or abs(stop - sound.frames) <= ROUNDING * sound.rate else stop
        _refuse_past_end(utterance, start, sound.frames, sound.rate)
        _refuse_cut_off(utterance, min(end, sound.frames) - start, end - start, sound.rate)
        end = min(end, sound.frames)
        last = end - round(MISSING * sound.rate)
        if last > start and not sound.reaches(last):
            raise InputError(f"{_name(utterance)}: ends before the expected {end / sound.rate:.3f} s; copy it again")
        return (end - start) / sound.rate


def facts(utterance: Utterance, sampling_rate: int, most: int | None = None) -> Facts:
    """The facts of the result of `load`, or of its first `most` samples, in bounded memory; all of it is decoded.

    The hash is of all samples, so that a recording has one, however much of it is used.
    Raises InputError like `load`.
    """
    digest, count, power, low, high = hashlib.sha256(), 0, 0.0, math.inf, -math.inf
    for block in blocks(utterance, sampling_rate):
        digest.update(np.ascontiguousarray(block, dtype="<f4").tobytes())
        part = block if most is None else block[: max(0, most - count)]
        if not len(part):
            continue
        count += len(part)
        power += float(np.square(part, dtype=np.float64).sum())
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    loudness = 10 * math.log10(power / count) if power else None
    return Facts(count, digest.hexdigest(), loudness, constant=not low < high)


@contextmanager
def _opened(utterance: Utterance) -> Iterator[Sound]:
    """Its sound; what libsndfile refuses, now or while it is read, becomes InputError."""
    content = None if utterance.content is None else utterance.content()
    if content is None and (reason := irregular(utterance.path)):
        raise InputError(f"{utterance.source}: {reason}; correct the path")
    with opened(_name(utterance), utterance.path, content) as sound:
        yield sound


def _name(utterance: Utterance) -> str:
    """Where the sound is, for messages: a file, or a place inside one."""
    elsewhere = utterance.content is not None or utterance.id in (STDIN, utterance.source)
    return utterance.source if elsewhere else str(utterance.path)


def irregular(path: Path) -> str | None:
    """Why this is not a regular file; None if it is. Pipes and devices are not: each read differs."""
    try:
        if path.is_file():
            return None
        if path.is_dir():
            return f"{path} is a folder, not a recording"
        if path.exists():
            return f"{path} is a pipe or device, not a regular file"
        return f"no recording {path}" + (" (a link to a missing file)" if path.is_symlink() else "")
    except OSError as error:  # a name too long, a folder that may not be entered
        return f"no recording {path} ({error.strerror})"


def _bounds(utterance: Utterance, rate: int) -> tuple[int, int | None]:
    """The first frame of the utterance and the one after its last, as its list has them."""
    start = round(utterance.offset * rate)
    return start, None if utterance.duration is None else start + round(utterance.duration * rate)


def _span(sound: Sound, utterance: Utterance) -> Iterator[np.ndarray]:
    """Its blocks (frames, channels), at the file's own rate.

    If the file ends within the rounding of times after the segment, the rest belongs to the segment.
    """
    start, stop = _bounds(utterance, sound.rate)
    if sound.frames is not None:
        _refuse_past_end(utterance, start, sound.frames, sound.rate)
    rest = round(ROUNDING * sound.rate)
    most = max(1, round(BLOCK * sound.rate) // -(-sound.channels // CHANNELS))
    place, held, overshoot = start, [], 0
    for block in sound.read(start, most):
        inside = len(block) if stop is None else max(0, min(len(block), stop - place))
        place += inside
        if inside:
            yield block[:inside]
        if inside < len(block):
            held.append(block[inside:])
            overshoot += len(block) - inside
        if overshoot > rest:
            return
    if place == start and not held:
        _refuse_past_end(utterance, start, _counted(sound, utterance, start), sound.rate)
    yield from held
    _refuse_cut_off(utterance, place - start, (place if stop is None else stop) - start, sound.rate)


def _counted(sound: Sound, utterance: Utterance, start: int) -> int:
    """All frames of a file that ends before `start`."""
    if sound.frames is not None or not start:
        return sound.frames or 0
    with _opened(utterance) as again:
        return sum(map(len, again.read(0, round(BLOCK * again.rate))))


def _refuse_past_end(utterance: Utterance, start: int, frames: int, rate: int) -> None:
    if start and start >= frames:
        raise InputError(
            f"{utterance.source}: offset {utterance.offset:g} s is past the end of {utterance.path} "
            f"({frames / rate:.3f} s); correct the offset"
        )


def _refuse_cut_off(utterance: Utterance, frames: int, expected: int, rate: int) -> None:
    if expected - frames > MISSING * rate:
        raise InputError(
            f"{utterance.source}: {utterance.path} has only {frames / rate:.3f} s of the expected "
            f"{expected / rate:.3f} s; copy it again or correct the duration"
        )


def _mono(blocks: Iterable[np.ndarray], utterance: Utterance) -> Iterator[np.ndarray]:
    """The mean of the channels (samples,) of blocks (samples, channels)."""
    channels, alone, together = 1, 0.0, 0.0
    for block in blocks:
        if not np.isfinite(block).all():
            raise InputError(
                f"{_name(utterance)}: has samples that are NaN or infinite; repair or remove the recording"
            )
        if len(block) and np.abs(block).max() > LOUDEST:
            raise InputError(
                f"{_name(utterance)}: has samples beyond 2^31, where full scale is 1; scale the recording"
            )
        mixed: np.ndarray = block.mean(axis=1)
        yield mixed
        channels = block.shape[1]
        alone += float(np.square(block, dtype=np.float64).sum())
        together += float(np.square(mixed, dtype=np.float64).sum())
    if channels > 1 and together < CANCELLED * alone / channels**2:
        raise InputError(
            f"{_name(utterance)}: its channels cancel each other, so their average is silence; "
            f"keep one of them, for example with {kinds.first_channel(str(utterance.path))}"
        )


def _resampled(waveforms: Iterable[np.ndarray], rate: int, target: int) -> Iterator[np.ndarray]:
    """A waveform that comes in blocks, at another rate; the samples are the same for any size of the blocks."""
    if rate == target:
        yield from waveforms
        return
    stream = soxr.ResampleStream(rate, target, 1, dtype="float32")
    for waveform in waveforms:
        yield stream.resample_chunk(waveform)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
