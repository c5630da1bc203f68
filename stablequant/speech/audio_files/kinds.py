"""What a file that cannot be read as sound is, by its first bytes, whatever its name."""

from __future__ import annotations

import re
import shlex
import struct
from pathlib import PurePath

__all__ = ["UNREAD", "convert", "first_channel", "readable", "reason"]

UNREAD = frozenset(  # recordings and films in formats that libsndfile cannot decode
    {
        *(".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".qt", ".aac", ".adts", ".3gp", ".3gpp", ".3g2", ".amr"),
        *(".awb", ".wma", ".wmv", ".asf", ".webm", ".mkv", ".mka", ".avi", ".mpg", ".mpeg", ".flv", ".ra", ".rm"),
        *(".ape", ".wv", ".tta", ".mpc", ".shn", ".spx", ".ac3", ".eac3", ".dts", ".g722", ".g729", ".gsm", ".raw"),
        *(".pcm", ".silk", ".dss", ".ds2"),
    }
)
SOUND = frozenset({b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"riff"})
RAW = frozenset({".raw", ".pcm"})  # samples without a header: their rate and form must be known
TEXT = frozenset(b"\t\n\r") | frozenset(range(32, 127))
AGAIN = "download or copy the recording again"

FOUND = (  # (place, bytes, what it is, what helps; None: a converter)
    (0, b"version https://git-lfs", "a Git LFS pointer, not audio", "run `git lfs pull`"),
    (4, b"ftyp", "MPEG-4 (AAC or another codec, as phones record)", None),
    (4, b"moov", "QuickTime or MPEG-4", None),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM", None),
    (0, b"#!AMR", "AMR speech", None),
    (0, b"#!SILK", "SILK speech", None),
    (1, b"#!SILK", "SILK speech", None),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media audio (WMA)", None),
    (0, b"ADIF", "AAC", None),
    (0, b".RMF", "RealMedia", None),
    (0, b".ra\xfd", "RealAudio", None),
    (0, b"FLV\x01", "Flash video", None),
    (0, b"MAC ", "Monkey's Audio", None),
    (0, b"wvpk", "WavPack", None),
    (0, b"TTA1", "True Audio", None),
    (0, b"MPCK", "Musepack", None),
    (0, b"MP+", "Musepack", None),
    (0, b"ajkg", "Shorten", None),
    (0, b"\x0b\x77", "AC-3", None),
    (0, b"\x00\x00\x01\xba", "an MPEG program stream", None),
    (28, b"Speex   ", "Ogg Speex", None),
    (8, b"AVI ", "an AVI film", None),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "gzip", "unpack it"),
    (0, b"BZh", "bzip2", "unpack it"),
    (0, b"\xfd7zXZ", "xz", "unpack it"),
    (0, b"(\xb5/\xfd", "Zstandard", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (0, b"Rar!", "a RAR archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (0, b"%PDF", "a PDF document", "use the path of the recording"),
    (0, b"\x89PNG", "a PNG image", "use the path of the recording"),
    (0, b"\xff\xd8\xff", "a JPEG image", "use the path of the recording"),
    (0, b"GIF8", "a GIF image", "use the path of the recording"),
    (0, b"\x93NUMPY", "a NumPy array", "write its samples with soundfile.write"),
    (0, b"PAR1", "a Parquet table", "write its recordings to files"),
)
TEXTS = (  # (a pattern of how it begins, what it is, what helps)
    (rb"(?is)\s*<(!doctype html|html|head|body)", "an HTML page instead of a recording", AGAIN),
    (rb"(?s)\s*<\?xml|\s*<[A-Za-z]", "XML, perhaps the error message of a server", AGAIN),
    (rb'(?s)\s*[{\[]\s*["{\[]', "JSON, perhaps the error message of a server", AGAIN),
)
CODECS = {
    0x02: "Microsoft ADPCM",
    0x11: "IMA ADPCM",
    0x22: "TrueSpeech",
    0x42: "G.723.1",
    0x45: "G.726",
    0x55: "MP3",
    0x64: "G.726",
    0x65: "G.722",
    0x83: "G.729",
    0xFF: "AAC",
    0x160: "WMA 1",
    0x161: "WMA 2",
    0x28F: "G.722",
    0x2000: "AC-3",
    0xA109: "Speex",
}


def convert(name: str) -> str:
    """The command that converts it to a WAV file."""
    path = PurePath(name)
    made = path.with_suffix(".wav") if path.suffix.lower() != ".wav" else path.with_name(f"{path.stem}-16k.wav")
    if path.suffix.lower() in RAW:
        return f"`ffmpeg -f s16le -ar 16000 -ac 1 -i {shlex.quote(path.name)} {shlex.quote(made.name)}` (adapt it)"
    return f"`ffmpeg -i {shlex.quote(path.name)} -ar 16000 -ac 1 {shlex.quote(made.name)}`"


def readable(head: bytes) -> bool:
    """Whether a file that begins with these bytes is sound that can be read, whatever its name."""
    return head[:4] in SOUND and reason(head, "") is None


def first_channel(name: str) -> str:
    """The command that keeps one channel of several."""
    return convert(name).replace("-ac 1", "-af 'pan=mono|c0=c0'")


def reason(head: bytes, name: str) -> str | None:
    """What a file that begins with these bytes is, and what helps; None if it may be sound."""
    for place, magic, what, advice in FOUND:
        if head[place : place + len(magic)] == magic:
            return (
                f"{what}, which is not supported; convert it: {convert(name)}" if not advice else f"{what}; {advice}"
            )
    for pattern, what, advice in TEXTS:
        if re.match(pattern, head):
            return f"{what}; {advice}"
    if head[:2] in (b"\xff\xf1", b"\xff\xf9", b"\xff\xf0", b"\xff\xf8"):
        return f"AAC, which is not supported; convert it: {convert(name)}"
    if head[:7] == b"NIST_1A" and b"shorten" in head[:1024]:
        return f"SPHERE compressed with shorten, which is not supported; convert it: {_sph2pipe(name)}"
    if len(head) >= 64 and not any(head):
        return "starts with zeros only, as after an interrupted copy; copy it again"
    if head[:4] not in SOUND and all(byte in TEXT for byte in head):
        return f"a text file, not audio; {AGAIN}"
    return _codec(head, name)


def _sph2pipe(name: str) -> str:
    path = PurePath(name)
    made = path.with_name(f"{path.stem}-16k.wav") if path.suffix.lower() == ".wav" else path.with_suffix(".wav")
    return f"`sph2pipe -f wav {shlex.quote(path.name)} {shlex.quote(made.name)}`"


def _codec(head: bytes, name: str) -> str | None:
    """The same for a WAV, whose sound may be in any codec."""
    place = head.find(b"fmt ", 12)
    if head[:4] != b"RIFF" or place < 0 or len(head) < place + 10:
        return None
    tag = struct.unpack_from("<H", head, place + 8)[0]
    if tag in (1, 3, 6, 7, 0x31, 0xFFFE) or tag not in CODECS:
        return None
    return f"a WAV with {CODECS[tag]} inside, which is not supported; convert it: {convert(name)}"
