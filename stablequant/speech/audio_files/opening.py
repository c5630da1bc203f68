"""Decode a recording in order and to its end, whatever its header says, without seeking where that fails."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ...foundation.errors import InputError
from . import containers, kinds

__all__ = ["Sound", "opened"]

RATES = (100, 768_000)  # Hz: what lies outside is a mistake in a header
LOUDEST = 2.0**31  # full scale is 1; 32-bit samples that were not divided reach up to here
WARM_UP = 1 << 14  # frames
ENDLESS = 1 << 40  # frames: no recording has as many
HEAD = 4096  # bytes that tell what a file is


class InOrder(soundfile.SoundFile):
    """Read from start to end: a length in a header does not end it, and nothing is sought between two reads."""

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class Sound:
    """The sound in a file."""

    name: str  # for messages
    files: tuple[InOrder, ...]  # one after the other
    counted: bool  # whether the number of frames in the header is that of the file
    claimed: int  # frames: what a header says in which that is no more than a hint; 0: nothing
    fresh: Callable[[], InOrder]  # opens the first of the files again

    @property
    def rate(self) -> int:
        return int(self.files[0].samplerate)

    @property
    def channels(self) -> int:
        return int(self.files[0].channels)

    @property
    def frames(self) -> int | None:
        """The number of all frames, if it is known without decoding."""
        return int(self.files[0].frames) if self.counted and self._seekable else None

    @property
    def _seekable(self) -> bool:
        return soundfile.SoundFile.seekable(self.files[0]) and not self.files[0].subtype.startswith("DWVW")

    def read(self, start: int, most: int) -> Iterator[np.ndarray]:
        """Blocks (at most `most` frames, channels), float32, from frame `start` to the end."""
        place, files = self._seek(start), self.files
        if place is None:
            place, files = 0, (self.fresh(),)
        for file in files:
            while len(block := self._block(file, place, most)):
                if place + len(block) > start:
                    yield block[max(0, start - place) :]
                place += len(block)

    def _seek(self, start: int) -> int | None:
        """The frame it is at now, or None if a seek failed and left the file useless.

        Frames within the stated length are reached by seeking, others by decoding up to them. A lossy decoder needs
        some frames before its output is right, so these are decoded too.
        """
        file, claimed = self.files[0], self.claimed or self.files[0].frames
        place = max(0, start - (WARM_UP if file.format in ("MP3", "OGG") else 0))
        if not place or len(self.files) > 1 or not self._seekable or not start < claimed < ENDLESS:
            return 0
        try:
            return int(file.seek(place))
        except soundfile.LibsndfileError:
            return None

    def _block(self, file: InOrder, place: int, most: int) -> np.ndarray:
        """The next frames. An error after all frames of the header is a tag behind the sound, not damage."""
        left = self.claimed - place
        try:
            block: np.ndarray = file.read(min(most, left) if left > 0 else most, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            if self.claimed and left <= 0:
                return np.zeros((0, self.channels), np.float32)
            raise
        return block

    def reaches(self, frame: int) -> bool:
        """Whether a frame is really in the file, not only in its header."""
        return self.files[0].seek(frame) == frame and len(self.files[0].read(1)) == 1


@contextmanager
def opened(name: str, path: Path, content: bytes | None) -> Iterator[Sound]:
    """The sound of a file, or of its content; what cannot be decoded, now or later, becomes InputError."""
    file = str(path) if name == str(path) else "recording"  # in the commands that are advised
    with ExitStack() as stack:
        raw = io.BytesIO(content) if content is not None else stack.enter_context(path.open("rb"))
        head = raw.read(HEAD)
        if not head:
            raise InputError(f"{name}: the file is empty (0 bytes); copy or download it again")
        try:
            streams = containers.streams(raw)
            files = tuple(stack.enter_context(_file(each, raw, path, content)) for each in streams)
            _refuse_odd(files, name, file)
            counted = len(files) == 1 and streams[0].counted and files[0].frames < ENDLESS

            def fresh() -> InOrder:
                return stack.enter_context(_file(containers.streams(raw)[0], raw, path, content))

            yield Sound(name, files, counted, streams[0].claimed, fresh)
        except containers.CutOffError as error:
            raise InputError(f"{name}: {_cut_off(file, *error.args)}") from error
        except soundfile.LibsndfileError as error:
            raise InputError(f"{name}: {kinds.reason(head, file) or _undecodable(error, head, file)}") from error


def _file(stream: containers.Stream, raw: BinaryIO, path: Path, content: bytes | None) -> InOrder:
    if stream.file is not None:
        return InOrder(stream.file)
    raw.seek(0)
    return InOrder(os.fsencode(path) if content is None else raw)


def _refuse_odd(files: tuple[InOrder, ...], name: str, file: str) -> None:
    """Refuse rates that no resampler can handle, and files that are more than one recording."""
    rate, channels = files[0].samplerate, files[0].channels
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(
            f"{name}: its header says {rate} samples per second, which cannot be right; correct the header"
        )
    if any((each.samplerate, each.channels) != (rate, channels) for each in files):
        raise InputError(
            f"{name}: contains streams with different sampling rates or numbers of channels; "
            f"convert it to one: {kinds.convert(file)}"
        )


def _cut_off(file: str, held: float | None = None, promised: float | None = None) -> str:
    what = "ends in the middle of a page" if held is None else f"has only {held:.3f} s of the {promised:.3f} s"
    rest = ", so it was cut off" if held is None else " in its header"
    return f"{what}{rest}; copy it again, or keep what is there: {kinds.convert(file)}"


def _undecodable(error: soundfile.LibsndfileError, head: bytes, file: str) -> str:
    """The reason for a file that is damaged or of an unknown format."""
    why = error.error_string.strip().rstrip(".")
    if head[:4] in kinds.SOUND or head[:3] == b"ID3" or head[:1] == b"\xff":
        return f"cannot be decoded ({why}); convert it, or copy it again if that fails: {kinds.convert(file)}"
    return f"cannot be decoded ({why}); its format is not known, convert it: {kinds.convert(file)}"
