"""What is no sound is named by what it is, with what helps."""

import re

import numpy as np
import pytest
import soundfile

from stablequant.foundation.errors import InputError
from stablequant.speech import audio
from stablequant.speech.audio import Utterance
from stablequant.speech.audio_files import kinds

CONVERT = r"which is not supported; convert it: `ffmpeg -i 'my b\.{suffix}' -ar 16000 -ac 1 'my b{made}\.wav'`$"
CONTAINERS = {
    "m4a": b"\0\0\0\x20ftypM4A ",
    "3gp": b"\0\0\0\x18ftyp3gp5",
    "mp4": b"\0\0\0\x20ftypisom",
    "webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01",
    "amr": b"#!AMR\n<",
    "wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "aac": b"\xff\xf1\x50\x80\x02\x1f\xfc",
    "spx": b"OggS\0\2" + bytes(22) + b"Speex   1.2",
    "wv": b"wvpk" + bytes(9),
}
NO_RECORDING = {
    b"version https://git-lfs.github.com/spec/v1\noid 0\n": "a Git LFS pointer, not audio; run `git lfs pull`",
    b"<!DOCTYPE html><html><body>Sign in</body></html>": "an HTML page instead of a recording; download",
    b"\n<HTML><head>": "an HTML page",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "XML, perhaps the error message of a server",
    b'{"error": "Invalid username or password."}': "JSON, perhaps the error message of a server; download or copy",
    b"PK\x03\x04\x14\0": "a ZIP archive; unpack it",
    b"\x1f\x8b\x08\0": "gzip; unpack it",
    b"\x93NUMPY\x01\0": "a NumPy array; write its samples with",
    b"Not found\r\n": "a text file, not audio; download or copy",
    b"\0" * 5000: "starts with zeros only, as after an interrupted copy; copy it again",
    b"": r"the file is empty \(0 bytes\)",
    b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n": "SPHERE .* `sph2pipe -f wav",
    b"\x83\x91\xa4\x01" * 100: r"cannot be decoded \(.*\); its format is not known, convert it: `ffmpeg",
}


def refused(path, content):
    path.write_bytes(content)
    each = Utterance("a", path, None, None, 0.0, None, "manifest.jsonl:1")
    found = []
    for read in (audio.length, lambda each: audio.load(each, 16000), lambda each: list(audio.blocks(each, 16000))):
        with pytest.raises(InputError) as error:
            read(each)
        found.append(str(error.value))
    assert len(set(found)) == 1
    return found[0]


@pytest.mark.parametrize("named", ["itself", "wav"])
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_sound_in_a_format_that_is_not_read(tmp_path, suffix, named):
    shown = suffix if named == "itself" else "wav"
    sentence = refused(tmp_path / f"my b.{shown}", CONTAINERS[suffix] + bytes(2000))
    made = "-16k" if shown == "wav" else ""
    assert sentence.startswith(f"{tmp_path}/my b.{shown}: ")
    assert re.search(CONVERT.format(suffix=shown, made=made), sentence), sentence


@pytest.mark.parametrize("content", NO_RECORDING)
def test_what_is_no_recording(tmp_path, content):
    sentence = refused(tmp_path / "b.wav", content)
    assert re.search(rf"b\.wav: {NO_RECORDING[content]}", sentence), sentence


@pytest.mark.parametrize(("tag", "codec"), [(0x55, "MP3"), (0x161, "WMA 2"), (0xFF, "AAC"), (0x65, "G.722")])
def test_wav_with_another_codec_inside(tmp_path, tag, codec):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[20:22] = tag.to_bytes(2, "little")
    sentence = refused(tmp_path / "b.wav", bytes(content))
    assert f"b.wav: a WAV with {codec} inside, which is not supported; convert it: `ffmpeg -i b.wav" in sentence


def test_samples_without_a_header_need_their_form():
    assert kinds.convert("x/b.raw").startswith("`ffmpeg -f s16le -ar 16000 -ac 1 -i b.raw b.wav`")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "rf64"])
def test_sound_is_nothing_else(tmp_path, suffix):
    soundfile.write(tmp_path / f"a.{suffix}", np.zeros(8000), 16000)
    assert kinds.reason((tmp_path / f"a.{suffix}").read_bytes()[:4096], "a") is None
