"""Every container and encoding that libsndfile can write, those it cannot seek in among them."""

import io

import numpy as np
import pytest
import soundfile

from stablequant.foundation.errors import InputError
from stablequant.speech import audio
from stablequant.speech.audio import Utterance

RATE = 44100  # of XI, which has no other
TIME = np.arange(2 * RATE)
SOUND = (0.3 * np.sin(TIME / 9) * np.cos(TIME / 5000)).astype(np.float32)
WITHOUT_HEADER = {"RAW"}
LOSES_THE_END = {("PAF", "PCM_24"), ("SDS", "PCM_S8"), ("SDS", "PCM_16"), ("SDS", "PCM_24")}  # libsndfile, in pieces
NOT_WRITTEN = {("AIFF", "DWVW_12"), ("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"), ("WAV", "MPEG_LAYER_III")}
SD2 = "SD2"  # of which half is in another file
KINDS = [
    (container, subtype)
    for container in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(container)
    if container not in WITHOUT_HEADER and (container, subtype) not in NOT_WRITTEN | LOSES_THE_END
]


def written(folder, container, subtype):
    path = folder / "a.bin"
    rate = 48000 if subtype == "OPUS" else 8000 if container == "WVE" else RATE
    soundfile.write(path, SOUND, rate, format=container, subtype=subtype)
    return path, soundfile.info(str(path)).samplerate  # some round it


def assert_close(found, expected, atol):
    """As pytest.approx has it, which takes 0.1 s for each second of sound."""
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= np.maximum(atol, 1e-6 * np.abs(expected))).all()


def utterance(path, offset=0.0, duration=None):
    return Utterance("a", path, None, None, offset, duration, "manifest.jsonl:1")


def in_order(path):
    """All its samples, read as one would from a tape."""
    parts = []
    with soundfile.SoundFile(path) as file:
        file.seekable = lambda: False
        while len(part := file.read(10_000, dtype="float32", always_2d=True)):
            parts.append(part)
    return np.concatenate(parts).mean(axis=1)


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_every_kind_is_read_whole_by_blocks_and_in_segments(tmp_path, monkeypatch, container, subtype):
    path, rate = written(tmp_path, container, subtype)
    expected = in_order(path)
    assert 0 <= len(expected) - len(SOUND) <= 2000, "a last block may be padded"
    assert_close(audio.load(utterance(path), rate), expected, 1e-7)
    assert audio.length(utterance(path)) == len(expected) / rate
    monkeypatch.setattr("stablequant.speech.waveforms.BLOCK", 0.3)
    assert_close(np.concatenate(list(audio.blocks(utterance(path), rate))), expected, 1e-6)
    segment = utterance(path, 1.0, 0.5)
    found = audio.load(segment, rate)
    assert_close(found, expected[rate : rate + round(0.5 * rate)], 1e-5)
    assert_close(np.concatenate(list(audio.blocks(segment, rate))), found, 1e-7)
    assert audio.length(segment) == len(found) / rate
    with pytest.raises(InputError, match="offset 99 s is past the end"):
        audio.load(utterance(path, 99.0), rate)


@pytest.mark.parametrize(("container", "subtype"), [kind for kind in KINDS if kind[0] != SD2])
def test_every_kind_inside_a_data_set(tmp_path, container, subtype):
    path, rate = written(tmp_path, container, subtype)
    content = path.read_bytes()
    inside = Utterance("0", tmp_path / "0", None, None, 0.0, None, "set row 0", lambda: content)
    expected = in_order(path)
    assert np.array_equal(audio.load(inside, rate), expected)
    assert audio.length(inside) == len(expected) / rate


def test_the_kinds_that_cannot_be_sought_are_among_them(tmp_path):
    stuck = set()
    for container, subtype in KINDS:
        path, _ = written(tmp_path, container, subtype)
        with soundfile.SoundFile(path) as file:
            if not file.seekable():
                stuck.add(subtype)
    assert {"GSM610", "NMS_ADPCM_16", "G721_32"} <= stuck


def test_memory_does_not_grow_with_what_a_header_claims(tmp_path):
    """2^36 samples would be 256 GB."""
    import resource

    path = tmp_path / "a.flac"
    soundfile.write(path, SOUND, RATE)
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F]) + b"\xff" * 4
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(audio.load(utterance(path), RATE)) == len(SOUND)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("channels", [3, 8, 9, 64])
def test_many_channels_are_averaged(tmp_path, channels):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert_close(audio.load(utterance(tmp_path / "a.wav"), RATE), samples.mean(axis=1), 1e-6)


@pytest.mark.parametrize(("channels", "loud"), [(2, 0), (2, 1), (16, 7)])
def test_silent_channels_are_no_reason(tmp_path, channels, loud):
    samples = np.zeros((RATE, channels), np.float32)
    samples[:, loud] = SOUND[:RATE]
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert_close(audio.load(utterance(tmp_path / "a.wav"), RATE), SOUND[:RATE] / channels, 1e-6)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_channels_that_cancel_each_other_are_refused(tmp_path, subtype):
    soundfile.write(tmp_path / "a b.wav", np.stack([SOUND, -SOUND], axis=1), RATE, subtype=subtype)
    advice = (
        r"keep one of them, for example with `ffmpeg -i 'a b\.wav' -ar 16000 -af 'pan=mono\|c0=c0' 'a b-16k\.wav'`"
    )
    for read in (audio.load, lambda *each: list(audio.blocks(*each))):
        with pytest.raises(InputError, match=rf"its channels cancel each other.*{advice}"):
            read(utterance(tmp_path / "a b.wav"), 16000)


def test_silence_on_all_channels_is_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    assert not audio.load(utterance(tmp_path / "a.wav"), RATE).any()


@pytest.mark.parametrize(
    ("peak", "kept"), [(1.5, True), (32768.0, True), (2.0**31, True), (1e30, False), (1e300, False)]
)
def test_samples_beyond_full_scale(tmp_path, peak, kept):
    samples = SOUND[:RATE].astype(np.float64)
    samples[100] = peak
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="DOUBLE")
    if kept:
        assert audio.load(utterance(tmp_path / "a.wav"), RATE)[100] == np.float32(peak)
    else:
        with pytest.raises(InputError, match=r"a\.wav: has samples (beyond 2\^31|that are NaN or infinite)"):
            audio.load(utterance(tmp_path / "a.wav"), RATE)


def test_many_channels_are_read_by_short_blocks(tmp_path):
    """1,024 channels of ten seconds would be 1.8 GB."""
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros((100, 1024), np.int16), RATE, format="WAV")
    each = Utterance("0", tmp_path, None, None, 0.0, None, "row 0", sound.getvalue)
    assert len(audio.load(each, RATE)) == 100
