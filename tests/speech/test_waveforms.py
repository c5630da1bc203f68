import hashlib
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from stablequant.foundation.errors import InputError
from stablequant.speech import audio, waveforms
from stablequant.speech.audio import Utterance


def tone(seconds=0.5, rate=16000, hertz=440):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, samples=None, rate=16000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if samples is None else samples, rate, **options)
    return path


def utterance(path, offset=0.0, duration=None):
    return Utterance(path.name, path, None, None, offset, duration, "manifest.jsonl:1")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
@pytest.mark.parametrize("rate", [8000, 48000])
def test_every_format_and_rate_becomes_the_same_tone(tmp_path, suffix, rate):
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    path = write(tmp_path / f"a.{suffix}", tone(rate=rate), rate, **options)
    waveform = audio.load(utterance(path), 16000)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 8000) <= 1
    middle = slice(2000, 6000)
    lossy = 0.08 if suffix in {"mp3", "opus", "ogg"} else 1e-3
    assert np.abs(waveform - tone()[: len(waveform)])[middle].max() < lossy


def test_44100_hertz(tmp_path):
    waveform = audio.load(utterance(write(tmp_path / "a.wav", tone(rate=44100), 44100)), 16000)
    assert waveform.shape == (8000,)
    assert np.abs(waveform - tone())[500:-500].max() < 1e-3


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([tone(), np.zeros(8000, np.float32)], axis=1)
    waveform = audio.load(utterance(write(tmp_path / "a.wav", stereo, subtype="FLOAT")), 16000)
    assert np.array_equal(waveform, tone() / 2)


@pytest.mark.parametrize("samples", [np.zeros(8000), np.full(8000, 1.5), tone(0.01), np.zeros(1)])
def test_silent_clipped_and_short_are_kept(tmp_path, samples):
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert np.array_equal(audio.load(utterance(path), 16000), samples.astype(np.float32))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_no_samples_at_all(tmp_path, rate):
    assert audio.load(utterance(write(tmp_path / "a.wav", np.zeros(0), rate)), 16000).shape == (0,)


def test_offset_and_duration_cut_a_segment(tmp_path):
    ramp = np.linspace(-1, 1, 32000, dtype=np.float32)
    path = write(tmp_path / "a.wav", ramp, subtype="FLOAT")
    assert np.array_equal(audio.load(utterance(path, 0.5, 0.25), 16000), ramp[8000:12000])
    assert np.array_equal(audio.load(utterance(path, 0.5), 16000), ramp[8000:])
    assert np.array_equal(audio.load(utterance(path, duration=0.5), 16000), ramp[:8000])


@pytest.mark.parametrize("duration", [1.95, 1.9999, 2.05, 2.9])
def test_rounded_or_overshooting_duration_keeps_the_whole_recording(tmp_path, duration):
    path = write(tmp_path / "a.wav", tone(2.0))
    assert len(audio.load(utterance(path, duration=duration), 16000)) == 32000


def test_recording_shorter_than_its_manifest_says(tmp_path):
    path = write(tmp_path / "a.wav", tone(2.0))
    with pytest.raises(InputError, match=r"^manifest\.jsonl:1: .*a\.wav has only 2\.000 s of the expected 9\.000 s"):
        audio.load(utterance(path, duration=9.0), 16000)
    with pytest.raises(InputError, match=r"has only 2\.000 s of the expected 9\.000 s"):
        audio.length(utterance(path, duration=9.0))


@pytest.mark.parametrize(("offset", "duration", "seconds"), [(0, None, 2), (0.5, 0.25, 0.25), (1.5, 0.55, 0.5)])
def test_length_is_that_of_the_waveform(tmp_path, offset, duration, seconds):
    each = utterance(write(tmp_path / "a.wav", tone(2.0, 8000), 8000), offset, duration)
    assert audio.length(each) == seconds == len(audio.load(each, 16000)) / 16000


def test_sound_inside_a_data_set(tmp_path):
    content = write(tmp_path / "a.flac").read_bytes()
    each = Utterance("0", tmp_path / "0", None, None, 0.0, None, "set row 0", lambda: content)
    assert np.array_equal(audio.load(each, 16000), audio.load(utterance(tmp_path / "a.flac"), 16000))
    for bad, message in ((b"", "set row 0: the file is empty"), (b"hello", "set row 0: a text file, not audio")):
        with pytest.raises(InputError, match=message):
            audio.load(replace(each, content=lambda bad=bad: bad), 16000)


def test_offset_past_the_end(tmp_path):
    path = write(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"^manifest\.jsonl:1: offset 3 s is past the end of .*a\.wav \(0\.500 s\)"):
        audio.load(utterance(path, offset=3.0), 16000)
    with pytest.raises(InputError, match="is past the end"):
        audio.length(utterance(path, offset=3.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_numbers(tmp_path, bad):
    samples = tone()
    samples[100] = bad
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: has samples that are NaN or infinite"):
        audio.load(utterance(path), 16000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^manifest\.jsonl:1: no recording .*a\.flac"),
        (b"", r"a\.flac: the file is empty \(0 bytes\)"),
        (b"hello" * 100, r"a\.flac: a text file, not audio; download or copy"),
    ],
)
def test_file_that_is_no_recording(tmp_path, content, message):
    path = tmp_path / "a.flac"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        audio.load(utterance(path), 16000)


def test_recording_cut_off_in_the_middle(tmp_path):
    path = write(tmp_path / "a.flac", tone(4.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.flac: cannot be decoded"):
        audio.load(utterance(path), 16000)


# ---- a long waveform, block by block


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_blocks_are_the_waveform(tmp_path, monkeypatch, rate, suffix):
    monkeypatch.setattr(waveforms, "BLOCK", 0.7)
    samples = 0.3 * np.random.default_rng(0).standard_normal((5 * rate + 17, 2)).astype(np.float32)
    found = utterance(write(tmp_path / f"a.{suffix}", np.clip(samples, -1, 1), rate))
    blocks = list(audio.blocks(found, 16000))
    assert len(blocks) > 5
    assert max(map(len, blocks)) < 1.5 * 16000
    whole = audio.load(found, 16000)
    assert np.array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize(("offset", "duration"), [(0.0, 12.0), (3.5, None), (2.0, 11.5), (29.95, None)])
def test_blocks_of_a_segment(tmp_path, offset, duration):
    found = utterance(write(tmp_path / "a.wav", tone(30.0, 44100), 44100), offset, duration)
    assert np.array_equal(np.concatenate(list(audio.blocks(found, 16000))), audio.load(found, 16000))


@pytest.mark.parametrize("target", [8000, 16000, 44100])
@pytest.mark.parametrize("rate", [7999, 8000, 16000, 22050, 48000, 96000])
def test_samples_do_not_depend_on_the_size_of_blocks(tmp_path, monkeypatch, rate, target):
    samples = 0.3 * np.random.default_rng(0).standard_normal(rate + 17).astype(np.float32)
    found = utterance(write(tmp_path / "a.wav", np.clip(samples, -1, 1), rate))
    whole, facts = audio.load(found, target), audio.facts(found, target)
    assert len(whole) == pytest.approx((rate + 17) * target / rate, abs=1)
    for seconds in (2, 0.31, 0.0123):
        monkeypatch.setattr(waveforms, "BLOCK", seconds)
        assert np.array_equal(audio.load(found, target), whole)
        assert replace(audio.facts(found, target), loudness_dbfs=facts.loudness_dbfs) == facts


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("most", [0, 1, 100, 23456, 90000])
def test_first_samples_are_those_of_the_whole_and_nothing_after_them_is_decoded(tmp_path, monkeypatch, rate, most):
    monkeypatch.setattr(waveforms, "BLOCK", 0.5)
    found = utterance(write(tmp_path / "a.wav", tone(5.0, rate), rate))
    first = audio.load(found, 16000)[:most]
    assert audio.facts(found, 16000, most).samples == len(first)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[: 44 + 2 * rate * 4])  # the last second is gone
    assert np.array_equal(audio.load(found, 16000, min(most, 48000)), first[:48000])


def test_blocks_of_nothing(tmp_path):
    found = utterance(write(tmp_path / "a.wav", np.zeros(0)))
    assert sum(map(len, audio.blocks(found, 16000))) == 0


def test_blocks_refuse_what_load_refuses(tmp_path):
    samples = tone(25.0)
    samples[-1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        list(audio.blocks(utterance(write(tmp_path / "a.wav", samples, subtype="FLOAT")), 16000))
    whole = write(tmp_path / "b.flac", tone(25.0)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.flac: cannot be decoded"):
        list(audio.blocks(utterance(tmp_path / "cut.flac"), 16000))
    with pytest.raises(InputError, match=r"has only 25\.000 s of the expected 40\.000 s"):
        list(audio.blocks(utterance(write(tmp_path / "c.wav", tone(25.0)), duration=40.0), 16000))


def test_hash_knows_a_copy_by_another_name_and_format(tmp_path):
    samples = (tone() * 2**15).astype(np.int16)
    paths = [write(tmp_path / "a.wav", samples), write(tmp_path / "b.flac", samples), write(tmp_path / "c.wav")]
    hashes = [audio.facts(utterance(path), 16000).sha256 for path in paths]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] == hashlib.sha256(audio.load(utterance(paths[0]), 16000).astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("waveform", "loudness"),
    [(np.ones(9), 0.0), (np.full(9, -0.1), -20.0), (tone(1.0), -9.03), (np.zeros(9), None), (np.zeros(0), None)],
)
def test_loudness(tmp_path, waveform, loudness):
    found = audio.facts(utterance(write(tmp_path / "a.wav", waveform, subtype="FLOAT")), 16000)
    assert found.loudness_dbfs == (None if loudness is None else pytest.approx(loudness, abs=0.01))
    assert found.constant == (len(set(waveform)) < 2)
    assert found.samples == len(waveform)
