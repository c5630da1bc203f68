"""Make libsndfile read files to their end: headers with a wrong length, and several streams in one file.

libsndfile stops at the length in a header. If that was never known (a pipe) or is wrong, the header is corrected while
reading: a View is the file with other bytes at its start. Nothing here allocates memory by what a header claims.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["CutOffError", "Stream", "streams"]

HEAD = 1 << 20  # bytes: the chunks before the sound, pictures among them
STREAMED = 0x7FFF0000  # bytes: from here on a header says that its writer did not know
LARGEST = 0xFFFFFFFF
MISSING = 1.0  # seconds: a recording this much shorter than its header says was cut off


class CutOffError(Exception):
    """A file with less sound than its header says; `args` are the seconds that are there, and those in the header."""


class View(io.RawIOBase):
    """A file from `begin` to `end`, after some bytes of its own."""

    def __init__(self, file: BinaryIO, head: bytes, begin: int, end: int) -> None:
        self._file, self._head, self._begin = file, head, begin
        self._size = len(head) + end - begin
        self._place = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        size = left if size < 0 else min(size, left)
        content = self._head[self._place : self._place + size]
        if len(content) < size:
            self._file.seek(self._begin + self._place + len(content) - len(self._head))
            content += self._file.read(size - len(content))
        self._place += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


@dataclass(frozen=True)
class Stream:
    """What libsndfile reads, and whether its number of frames can be trusted."""

    file: View | None  # None: the file as it is
    counted: bool
    claimed: int = 0  # frames: what its header says where that does not end it


def streams(file: BinaryIO) -> list[Stream]:
    """The streams in a file, one after the other; raises CutOffError where its header promises more than there is."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    if head[:4] == b"fLaC":
        return [_flac(file, head, size)]
    if head[:4] == b"OggS":
        return _ogg(file, size)
    if head[:4] in _CHUNKED or head[:4] == b".snd":
        return [_chunked(file, head, size)]
    return [_mpeg(file, head, size) or Stream(None, counted=not _is_mpeg(head))]


# ---- FLAC: the total number of samples, 36 bits of STREAMINFO, may be 0 (not known) or anything


def _flac(file: BinaryIO, head: bytes, size: int) -> Stream:
    if len(head) < 42:
        return Stream(None, counted=True)
    claimed = int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF
    unknown = head[:21] + bytes([head[21] & 0xF0, 0, 0, 0, 0]) + head[26:42]
    return Stream(View(file, unknown, len(unknown), size), counted=False, claimed=claimed)


# ---- Ogg: pages, of which one that begins a stream may follow one that ended another (radio, joined files)


def _ogg(file: BinaryIO, size: int) -> list[Stream]:
    starts, began = [], False
    for place, flags in _pages(file, size):
        begins = bool(flags & 2)
        if begins and not began:
            starts.append(place)
        began = begins
    if len(starts) < 2:
        return [Stream(None, counted=False)]
    bounds = zip(starts, [*starts[1:], size], strict=True)
    return [Stream(View(file, b"", begin, end), counted=False) for begin, end in bounds]


def _pages(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """(place, flags) of each page up to the first that is none; a last one that is not all there is a cut."""
    place = 0
    while place + 27 <= size:
        file.seek(place)
        header = file.read(27 + 255)
        if header[:4] != b"OggS":
            return
        end = place + 27 + header[26] + sum(header[27 : 27 + header[26]])
        yield place, header[5]
        if end > size:
            raise CutOffError
        place = end


# ---- RIFF, RF64, AIFF, CAF, Wave64, AU: a chunk of sound that says how long it is

_CHUNKED = {  # magic: (first chunk, bytes of a name, of a size, their order, name of the sound, alignment)
    b"RIFF": (12, 4, "<I", b"data", 2),
    b"RIFX": (12, 4, ">I", b"data", 2),
    b"RF64": (12, 4, "<I", b"data", 2),
    b"FORM": (12, 4, ">I", b"SSND", 2),
    b"caff": (8, 4, ">Q", b"data", 1),
    b"riff": (40, 16, "<Q", b"data", 8),
}


@dataclass(frozen=True)
class _Field:
    """The size of the sound as its header has it: where that stands, how it is written, and where the sound begins."""

    place: int
    form: str
    claimed: int
    begin: int

    @property
    def unknown(self) -> int:
        return (1 << 8 * struct.calcsize(self.form)) - 1


def _chunked(file: BinaryIO, head: bytes, size: int) -> Stream:
    """Whether the size is 0 because the writer could not go back to fill it in; libsndfile would read nothing."""
    field = _field(head)
    if field is None:
        return Stream(None, counted=True)
    held = size - field.begin
    unknown = head[:4] in (b"caff", b"RF64") and field.claimed == field.unknown
    if unknown or (field.claimed < held and _goes_on(file, head, field, size)):
        return Stream(_with_size(file, head, field, size), counted=True)
    if head[:4] == b"RIFF" and size > LARGEST and field.claimed in (held % (LARGEST + 1), LARGEST):
        return Stream(_as_rf64(file, head, field, size), counted=True)
    seconds = _seconds(head)
    if seconds and held < field.claimed < _streamed(field) and (field.claimed - held) * seconds > MISSING:
        raise CutOffError(held * seconds, field.claimed * seconds)
    return Stream(None, counted=True)


def _with_size(file: BinaryIO, head: bytes, field: _Field, size: int) -> View:
    """The header with the size that is there; RF64 keeps it in another chunk."""
    held = size - field.begin
    if head[:4] == b"caff":
        held += 4  # the count of edits belongs to the chunk
    patched = bytearray(head[: field.begin])
    struct.pack_into(field.form, patched, field.place, min(held, field.unknown))
    return View(file, bytes(patched), field.begin, size)


def _as_rf64(file: BinaryIO, head: bytes, field: _Field, size: int) -> View:
    """Whether the size does not fit in 32 bits, so that the field wrapped around or says "unknown"."""
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, size + 28, size - field.begin, 0, 0)
    start = b"RF64" + struct.pack("<I", LARGEST) + b"WAVE" + sizes + head[12 : field.place]
    return View(file, start + struct.pack("<I", LARGEST), field.begin, size)


def _streamed(field: _Field) -> int:
    return STREAMED if struct.calcsize(field.form) == 4 else 1 << 62


def _field(head: bytes) -> _Field | None:
    if head[:4] == b".snd":
        if len(head) < 24:
            return None
        begin, claimed = struct.unpack_from(">II", head, 4)
        return _Field(8, ">I", claimed, begin)
    if head[:4] == b"RF64" and (place := head.find(b"ds64", 12, 64)) > 0 and len(head) >= place + 24:
        begin = head.find(b"data", place) + 8
        return _Field(place + 16, "<Q", struct.unpack_from("<Q", head, place + 16)[0], begin) if begin > 8 else None
    for place, name, claimed in _chunks(head):
        _, width, form, sound, _ = _CHUNKED[head[:4]]
        if name[:4] == sound:
            begin = place + width + struct.calcsize(form) + (4 if head[:4] == b"caff" else 0)
            taken = begin - place if head[:4] == b"riff" else 0  # Wave64 counts the header of the chunk
            return _Field(place + width, form, max(0, claimed - taken), begin)
    return None


def _chunks(head: bytes) -> Iterator[tuple[int, bytes, int]]:
    """(place, name, size) of each chunk that begins in the head."""
    place, width, form, _, alignment = _CHUNKED[head[:4]]
    header = width + struct.calcsize(form)
    while place + header <= len(head):
        claimed = struct.unpack_from(form, head, place + width)[0]
        yield place, head[place : place + width], claimed
        place += claimed if head[:4] == b"riff" else claimed + header
        place += -place % alignment
        if claimed == 0 and head[:4] == b"riff":
            return


def _goes_on(file: BinaryIO, head: bytes, field: _Field, size: int) -> bool:
    """Whether the sound goes on after its stated size: no other chunk follows, and the file is longer."""
    whole = struct.unpack_from(field.form, head, 4)[0] + 8 if head[:4] in (b"RIFF", b"RIFX", b"FORM") else 0
    if field.claimed and whole != size:
        return False
    end = field.begin + field.claimed
    file.seek(end)
    following = file.read(9)
    return not any(_is_chunk(following[odd:], field, size - end) for odd in {0, field.claimed % 2})


def _is_chunk(start: bytes, field: _Field, held: int) -> bool:
    if len(start) < 8 or not all(32 <= byte < 127 for byte in start[:4]):
        return False
    order = ">" if field.form[0] == ">" else "<"
    return bool(struct.unpack_from(f"{order}I", start, 4)[0] <= held - 8)


def _seconds(head: bytes) -> float | None:
    """Of one byte of sound."""
    if head[:4] == b".snd":
        encoding, rate, channels = struct.unpack_from(">III", head, 12)
        width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding)
        return 1 / (rate * channels * width) if width and rate and channels else None
    for place, name, _ in _chunks(head):
        if name[:4] == b"fmt " and head[:4] != b"FORM":
            width = _CHUNKED[head[:4]][1] + struct.calcsize(_CHUNKED[head[:4]][2])
            order = ">" if head[:4] == b"RIFX" else "<"
            rate = struct.unpack_from(f"{order}I", head, place + width + 8)[0]
            return 1 / rate if rate else None
        if name == b"COMM":
            channels, _, bits = struct.unpack_from(">hIh", head, place + 8)
            rate = _extended(head[place + 16 : place + 26])
            return 8 / (rate * channels * bits) if rate > 0 and channels > 0 and bits > 0 else None
        if name == b"desc":
            rate, _, _, packet, frames = struct.unpack_from(">d4sIII", head, place + 12)
            return frames / (rate * packet) if rate > 0 and packet else None
    return None


def _extended(number: bytes) -> float:
    """A float of 80 bits, as AIFF has the sampling rate."""
    exponent, mantissa = struct.unpack(">HQ", number)
    power = (exponent & 0x7FFF) - 16383 - 63
    return float(mantissa) * 2.0**power if -100 < power < 100 else 0.0


# ---- MPEG audio (MP3): frames without a length of the whole, or one in a tag in the first frame

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {  # (MPEG 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[False, 3] = _KBITS[False, 2]


def _is_mpeg(head: bytes) -> bool:
    return head[:3] == b"ID3" or (bool(head) and _frame(head[:4]) is not None)


def _frame(header: bytes) -> tuple[int, int, float] | None:
    """(bytes, bytes from its start to a tag in it, seconds) of the frame that begins so."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    kbits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or kbits in (0, 15) or rate == 3:
        return None
    first = version == 3
    bits, hertz = 1000 * _KBITS[first, layer][kbits - 1], _RATES[version][rate]
    samples = 384 if layer == 1 else 1152 if first or layer == 2 else 576
    length = (12 * bits // hertz + padding) * 4 if layer == 1 else samples // 8 * bits // hertz + padding
    mono = header[3] >> 6 == 3
    tag = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    return length, tag, samples / hertz


def _mpeg(file: BinaryIO, head: bytes, size: int) -> Stream | None:
    """With the number of frames that are there in its tag: without one libsndfile guesses by the first frame."""
    begin = 10 + sum((byte & 0x7F) << 7 * (3 - n) for n, byte in enumerate(head[6:10])) if head[:3] == b"ID3" else 0
    file.seek(begin)
    first = file.read(1 << 12)
    if (frame := _frame(first[:4])) is None or _frame(first[frame[0] : frame[0] + 4]) is None:
        return None
    length, tag, seconds = frame
    if first[1] >> 1 & 3 != 1:
        return None  # layers I and II have neither tags nor changing rates
    tagged = first[tag : tag + 4] in (b"Xing", b"Info") and first[tag + 7] & 1
    count = _count(file, begin, size) - bool(tagged)
    if not tagged:
        return Stream(View(file, _tag(first[:length], tag, count), begin, size), counted=True)
    claimed = struct.unpack_from(">I", first, tag + 8)[0]
    if claimed == count:
        return Stream(None, counted=True)
    promised = struct.unpack_from(">I", first, tag + 12)[0] if first[tag + 7] & 2 else 0
    if (claimed - count) * seconds > MISSING and promised > size - begin:
        raise CutOffError(count * seconds, claimed * seconds)
    mended = bytearray(first)
    struct.pack_into(">I", mended, tag + 8, count)
    return Stream(View(file, bytes(mended), begin + len(mended), size), counted=True)


def _tag(frame: bytes, place: int, count: int) -> bytes:
    """A frame of silence with the tag that says how many follow."""
    flags_and_count = b"Xing" + struct.pack(">II", 1, count)
    start = bytes([frame[0], frame[1] | 1, *frame[2:4]])  # no checksum
    return (start + bytes(place - 4) + flags_and_count).ljust(len(frame), b"\0")[: len(frame)]


def _count(file: BinaryIO, place: int, size: int) -> int:
    """Of the frames that are all there; what lies between is passed over, as a decoder does."""
    count = 0
    while place + 4 <= size:
        file.seek(place)
        frame = _frame(file.read(4))
        if frame is None:
            place = _next_frame(file, place + 1)
            if place < 0:
                break
        elif place + frame[0] <= size:
            count, place = count + 1, place + frame[0]
        else:
            break
    return count


def _next_frame(file: BinaryIO, place: int) -> int:
    """Where the next frame begins that another one follows; -1: nowhere."""
    file.seek(place)
    while len(block := file.read(1 << 16)) > 4:
        at = block.find(b"\xff")
        while 0 <= at < len(block) - 4:
            frame = _frame(block[at : at + 4])
            if frame and at + frame[0] + 4 <= len(block) and _frame(block[at + frame[0] : at + frame[0] + 4]):
                return place + at
            at = block.find(b"\xff", at + 1)
        place += len(block) - 4
        file.seek(place)
    return -1
