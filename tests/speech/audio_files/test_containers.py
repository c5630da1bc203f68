"""Files whose headers say another length than they have: what is there is read, to its end and in order."""

import struct
from contextlib import suppress

import numpy as np
import pytest
import soundfile

from stablequant.foundation.errors import InputError
from stablequant.speech import audio
from stablequant.speech.audio import Utterance

RATE = 16000
SECONDS = 5
NOISE = np.random.default_rng(0).uniform(-0.3, 0.3, SECONDS * RATE).astype(np.float32)
BYTES = 2 * len(NOISE)


def made(folder, suffix, samples=NOISE, **options):
    path = folder / f"made.{suffix}"
    soundfile.write(path, samples, RATE, **options)
    return path.read_bytes()


def put(folder, content, suffix="wav"):
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    return Utterance(path.name, path, None, None, 0.0, None, "manifest.jsonl:1")


def patched(content, place, form, *values):
    buffer = bytearray(content)
    struct.pack_into(form, buffer, place, *values)
    return bytes(buffer)


def check(utterance, seconds, expected=None):
    """Its length, samples and blocks agree, and are as expected."""
    waveform = audio.load(utterance, RATE)
    assert len(waveform) / RATE == pytest.approx(seconds, abs=1e-3)
    assert audio.length(utterance) == pytest.approx(seconds, abs=1e-3)
    joined = np.concatenate([np.zeros(0, np.float32), *audio.blocks(utterance, RATE)])
    assert np.abs(joined - waveform).max(initial=0) < 1e-6
    if expected is not None:
        assert np.abs(waveform - expected).max(initial=0) < 1e-6


def whole(folder, content, suffix):
    return audio.load(put(folder, content, f"whole.{suffix}"), RATE)


# ---- sizes of chunks

UNKNOWN = [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFE, 0x80000000, 0x7FFFF000]


@pytest.mark.parametrize("size", UNKNOWN)
@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("subtype", ["PCM_16", "GSM610", "ULAW", "FLOAT", "MS_ADPCM"])
def test_wav_from_a_pipe(tmp_path, size, outer, subtype):
    content = made(tmp_path, "wav", subtype=subtype)
    unknown = patched(content, content.index(b"data") + 4, "<I", size)
    if outer:
        unknown = patched(unknown, 4, "<I", size)
    found = audio.load(put(tmp_path, unknown), RATE)
    expected = whole(tmp_path, content, "wav")
    assert len(expected) <= len(found) <= len(expected) + 0.05 * RATE, "GSM and ADPCM may end with a padded block"
    assert np.array_equal(found[: len(expected)], expected)
    assert audio.length(put(tmp_path, unknown)) == pytest.approx(len(found) / RATE)


@pytest.mark.parametrize(
    ("suffix", "place", "form", "size"),
    [
        *(("aiff", (b"SSND", 4), ">I", size) for size in (0, 0xFFFFFFFF, 0x7FFFFFFF)),
        *(("aiff", (b"COMM", 10), ">I", size) for size in (0, 0xFFFFFFFF, 100, 10**6)),
        *(("au", (b".snd", 8), ">I", size) for size in (0, 0xFFFFFFFF)),
        *(("caf", (b"data", 4), ">Q", size) for size in (0, 2**64 - 1)),
        *(("w64", (b"data", 16), "<Q", size) for size in (0, 2**64 - 1)),
        *(("rf64", (b"ds64", 16), "<Q", size) for size in (0, 2**62, 2**64 - 1)),
        ("wav", (b"data", 4), "<I", BYTES // 2),
        ("wav", (b"data", 4), "<I", BYTES - 1),
        ("wav", (b"RIFF", 4), "<I", 0),
    ],
)
def test_size_that_is_not_that_of_the_sound(tmp_path, suffix, place, form, size):
    content = made(tmp_path, suffix)
    wrong = patched(content, content.index(place[0]) + place[1], form, size)
    check(put(tmp_path, wrong, suffix), SECONDS, whole(tmp_path, content, suffix))


@pytest.mark.parametrize("suffix", ["wav", "rf64", "aiff", "au", "caf", "w64"])
def test_half_a_file_is_refused_with_what_it_holds(tmp_path, suffix):
    content = made(tmp_path, suffix)
    half = put(tmp_path, content[: len(content) // 2], suffix)
    for read in (audio.length, lambda each: audio.load(each, RATE)):
        with pytest.raises(InputError, match=r"has only 2\.\d+ s of the 5\.0\d\d s in its header; copy it again, or"):
            read(half)


def test_odd_chunks_and_what_trails_are_no_sound(tmp_path):
    content = made(tmp_path, "wav")
    expected = whole(tmp_path, content, "wav")
    odd = b"junk" + struct.pack("<I", 7) + b"1234567\0"
    for other in (content[:12] + odd + content[12:], content + b"TAG" + bytes(125), content + odd):
        check(put(tmp_path, other), SECONDS, expected)


def test_empty_sound_before_another_chunk_is_empty(tmp_path):
    content = made(tmp_path, "wav", np.zeros(0))
    notes = b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + bytes(4)
    check(put(tmp_path, patched(content + notes, 4, "<I", len(content) + len(notes) - 8)), 0)


@pytest.mark.parametrize("size", [0xFFFFFFFF, None])
def test_wav_beyond_four_gigabytes(tmp_path, size):
    """A sparse file; sizes that wrap around, or are not known. Only its length is asked: nothing is read of it."""
    held = (1 << 32) + 10 * RATE * 2
    content = made(tmp_path, "wav", NOISE[:0])
    place = content.index(b"data") + 4
    each = put(tmp_path, patched(content, place, "<I", held % (1 << 32) if size is None else size))
    with each.path.open("r+b") as file:
        file.truncate(place + 4 + held)
    assert audio.length(each) == held / 2 / RATE
    last = Utterance("a", each.path, None, None, held / 2 / RATE - 1, None, "manifest.jsonl:1")
    assert len(audio.load(last, RATE)) == RATE


# ---- FLAC


def total(content, frames):
    rest = content[21] & 0xF0
    return patched(content, 21, ">BI", rest | frames >> 32, frames & 0xFFFFFFFF)


@pytest.mark.parametrize("frames", [0, 1, len(NOISE) - 1000, len(NOISE) + 1000, 2 * len(NOISE), 2**36 - 1])
def test_flac_of_any_length_is_read_to_its_end(tmp_path, frames):
    content = made(tmp_path, "flac")
    check(put(tmp_path, total(content, frames), "flac"), SECONDS, whole(tmp_path, content, "flac"))


@pytest.mark.parametrize("frames", [0, 100, len(NOISE), 2 * len(NOISE), 2**36 - 1])
def test_segment_of_a_flac_of_any_length(tmp_path, frames):
    content = made(tmp_path, "flac")
    each = put(tmp_path, total(content, frames), "flac")
    segment = Utterance("a", each.path, None, None, 2.0, 1.5, "manifest.jsonl:1")
    assert np.array_equal(audio.load(segment, RATE), whole(tmp_path, content, "flac")[2 * RATE : round(3.5 * RATE)])
    late = Utterance("a", each.path, None, None, 7.0, 1.5, "manifest.jsonl:1")
    with pytest.raises(InputError, match=r"offset 7 s is past the end of .* \(5\.000 s\)"):
        audio.load(late, RATE)


def test_tag_after_a_flac_is_no_error_and_half_of_one_is(tmp_path):
    content = made(tmp_path, "flac")
    check(put(tmp_path, content + b"TAG" + bytes(125), "flac"), SECONDS, whole(tmp_path, content, "flac"))
    for frames in (0, len(NOISE)):
        half = put(tmp_path, total(content, frames)[: len(content) // 2], "flac")
        for read in (audio.length, lambda each: audio.load(each, RATE)):
            with pytest.raises(InputError, match=r"a\.flac: cannot be decoded .*convert it, or copy it again"):
                read(half)


# ---- Ogg

OGG = {"vorbis": {"format": "OGG"}, "opus": {"format": "OGG", "subtype": "OPUS"}}


@pytest.mark.parametrize("codec", OGG)
def test_ogg_joined_from_several(tmp_path, codec):
    content = made(tmp_path, "ogg", **OGG[codec])
    expected = whole(tmp_path, content, "ogg")
    check(put(tmp_path, 3 * content, "ogg"), 3 * SECONDS, np.tile(expected, 3))
    segment = Utterance("a", tmp_path / "a.ogg", None, None, 4.0, 3.0, "manifest.jsonl:1")
    assert np.array_equal(audio.load(segment, RATE), np.tile(expected, 2)[4 * RATE : 7 * RATE])


def test_ogg_joined_from_several_rates_is_refused(tmp_path):
    soundfile.write(tmp_path / "b.ogg", NOISE, 8000)
    joined = put(tmp_path, made(tmp_path, "ogg") + (tmp_path / "b.ogg").read_bytes(), "ogg")
    with pytest.raises(InputError, match=r"contains streams with different sampling rates .*`ffmpeg -i a\.ogg"):
        audio.load(joined, RATE)


@pytest.mark.parametrize("codec", OGG)
def test_ogg_cut_off_in_a_page_is_refused(tmp_path, codec):
    content = made(tmp_path, "ogg", **OGG[codec])
    for size in (len(content) // 2, len(content) - 30):
        with pytest.raises(InputError, match="ends in the middle of a page, so it was cut off; copy it again"):
            audio.length(put(tmp_path, content[:size], "ogg"))


@pytest.mark.parametrize("codec", OGG)
def test_ogg_without_an_end_is_read_to_where_it_stops(tmp_path, codec):
    """A stream that was recorded and stopped between two pages has no page that is marked as its last."""
    content = made(tmp_path, "ogg", **OGG[codec])
    stopped = put(tmp_path, content[: content.rindex(b"OggS")], "ogg")
    waveform = audio.load(stopped, RATE)
    assert SECONDS / 2 < len(waveform) / RATE < SECONDS
    check(stopped, len(waveform) / RATE)


# ---- MP3


def tag(content):
    return max(content.find(b"Xing"), content.find(b"Info"))


def untagged(content):
    return content[content.index(content[:2], tag(content)) :]


@pytest.mark.parametrize("frames", [0, 1, 70, 300, 2**32 - 1])
def test_mp3_with_a_wrong_number_of_frames(tmp_path, frames):
    content = made(tmp_path, "mp3")
    wrong = put(tmp_path, patched(content, tag(content) + 8, ">I", frames), "mp3")
    check(wrong, SECONDS, whole(tmp_path, content, "mp3"))


def test_mp3_of_changing_rate_without_a_tag(tmp_path):
    """libsndfile would guess the length by the first frame, and stop there."""
    samples = NOISE.copy()
    samples[: 2 * RATE] = 0
    content = made(tmp_path, "mp3", samples, bitrate_mode="VARIABLE")
    each = put(tmp_path, untagged(content), "mp3")
    check(each, len(audio.load(each, RATE)) / RATE)
    assert audio.length(each) == pytest.approx(SECONDS, abs=0.15), "whole frames, with the encoder's own delay"


def test_half_an_mp3_is_refused_and_joined_ones_are_read(tmp_path):
    content = made(tmp_path, "mp3")
    with pytest.raises(InputError, match=r"has only 2\.\d+ s of the 5\.\d+ s in its header"):
        audio.length(put(tmp_path, content[: len(content) // 2], "mp3"))
    two = put(tmp_path, content + content, "mp3")
    check(two, len(audio.load(two, RATE)) / RATE)
    assert audio.length(two) == pytest.approx(2 * SECONDS, abs=0.2)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_mp3_as_encoders_write_it_is_what_libsndfile_reads(tmp_path, rate, channels, mode):
    path = tmp_path / "a.mp3"
    samples = np.stack([NOISE[: 2 * rate]] * channels, axis=1)
    soundfile.write(path, samples, rate, bitrate_mode=mode)
    each = Utterance("a", path, None, None, 0.0, None, "a")
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert audio.load(each, rate) == pytest.approx(expected.mean(axis=1), abs=1e-6)
    assert audio.length(each) == len(expected) / rate


# ---- the content decides, not the name


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a"])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff", "au", "caf"])
def test_wrong_suffix(tmp_path, suffix, name):
    content = made(tmp_path, suffix)
    (tmp_path / name).write_bytes(content)
    found = Utterance(name, tmp_path / name, None, None, 0.0, None, "a")
    check(found, SECONDS, whole(tmp_path, content, suffix))


@pytest.mark.parametrize("field", [0, 7, 1_000_000, 2**31 - 1, 2**32 - 1])
def test_absurd_sampling_rate(tmp_path, field):
    with pytest.raises(InputError, match=r"a\.wav: (its header says \d+ samples per second|cannot be decoded)"):
        audio.length(put(tmp_path, patched(made(tmp_path, "wav"), 24, "<I", field)))


@pytest.mark.parametrize("channels", [0, 1025, 65535])
def test_absurd_number_of_channels(tmp_path, channels):
    with pytest.raises(InputError, match=r"a\.wav: cannot be decoded \(.*hannel.*\); convert it"):
        audio.length(put(tmp_path, patched(made(tmp_path, "wav"), 22, "<H", channels)))


@pytest.mark.parametrize("suffix", ["wav", "rf64", "aiff", "au", "caf", "w64", "flac", "ogg", "mp3"])
def test_headers_with_any_byte_changed_or_cut_are_read_or_refused(tmp_path, suffix):
    content = made(tmp_path, suffix, NOISE[:RATE])
    rng = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(content[: rng.integers(1, 200)] if rng.random() < 0.3 else content)
        for place in rng.integers(0, min(200, len(broken)), rng.integers(1, 4)):
            broken[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        each = put(tmp_path, bytes(broken), suffix)
        with suppress(InputError):
            seconds = audio.length(each)
            assert sum(map(len, audio.blocks(each, RATE))) / RATE == pytest.approx(seconds, abs=0.1, rel=0.01)
