import json
import re

import numpy as np
import pytest
import soundfile
from speech.layouts.examples import common_voice, put

from stablequant.speech import data_summary


@pytest.fixture
def mixed(tmp_path):
    """Recordings of 0.5, 1.5 and 70 s, and four entries that cannot be used."""
    for name, seconds in (("a.wav", 0.5), ("b.wav", 1.5), ("c.wav", 70)):
        soundfile.write(tmp_path / name, np.zeros(round(100 * seconds)), 100)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    entries = [{"audio_filepath": f"{name}.wav"} for name in ("a", "b", "c", "broken", "gone")]
    entries += [{"audio_filepath": "a.wav", "offset": 9}]
    entries[0] |= {"text": "A", "speaker": "s"}
    return put(tmp_path / "manifest.jsonl", *map(json.dumps, entries), "{")


def test_good_ones_are_counted_and_all_problems_told(mixed):
    found = data_summary.summary(str(mixed))
    histogram = {each["from"]: each["utterances"] for each in found.pop("histogram") if each["utterances"]}
    problems = found.pop("problems")
    assert histogram == {0: 1, 1: 1, 60: 1}
    assert found == {
        "schema": 1,
        "data": str(mixed),
        "layout": "nemo",
        "utterances": 3,
        "transcripts": 1,
        "speakers": 1,
        "hours": 0.02,
        "seconds": {"min": 0.5, "median": 1.5, "max": 70.0},
    }
    assert len(problems) == 4
    for part in (":5: no recording", ":7: not JSON", "broken.wav: cannot be decoded", ":6: offset 9 s is past"):
        assert sum(part in problem for problem in problems) == 1


def test_table(mixed):
    lines = data_summary.table(data_summary.summary(str(mixed))).splitlines()
    assert lines[0].startswith("layout      nemo: a NeMo manifest")
    assert lines[1:5] == [
        "utterances  3, 1 with a transcript",
        "audio       1.2 min",
        "speakers    1",
        "seconds     0.50 to 70.00, median 1.50",
    ]
    assert lines[6] == f"  0-1 s  1  {'#' * 40}"
    assert lines[8] == "  2-5 s  0"
    assert lines[14] == f"  60+ s  1  {'#' * 40}"
    assert lines[16] == "problems    4"
    assert len(lines) == 21


@pytest.mark.parametrize(("hours", "told"), [(2.5, "2.50 h"), (0.5, "30.0 min"), (0.001, "3.6 s")])
def test_the_length_of_the_audio(mixed, hours, told):
    assert f"audio       {told}\n" in data_summary.table({**data_summary.summary(str(mixed)), "hours": hours})


@pytest.mark.parametrize("suffix", ["flac", "mp3", "wav"])
def test_a_recording_that_was_copied_by_half_is_found(tmp_path, suffix):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 160_000)
    whole, half = tmp_path / f"whole.{suffix}", tmp_path / f"half.{suffix}"
    soundfile.write(whole, noise, 16000)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    entries = ({"audio_filepath": each.name, "duration": 10.0} for each in (whole, half))
    found = data_summary.summary(str(put(tmp_path / "manifest.jsonl", *map(json.dumps, entries))))
    assert found["utterances"] == 1
    assert len(found["problems"]) == 1
    assert "half" in found["problems"][0]


@pytest.mark.parametrize("suffix", ["aiff", "au", "wav"])
def test_a_header_that_promises_more_is_found(tmp_path, suffix):
    whole, half = tmp_path / f"whole.{suffix}", tmp_path / f"half.{suffix}"
    soundfile.write(whole, np.zeros(80_000), 16000)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = data_summary.summary(str(tmp_path))
    assert found["utterances"] == 1
    assert re.search(r"half\.\w+: has only 2\.\d+ s of the 5\.0\d\d s in its header; copy", *found["problems"])


def test_a_recording_from_a_pipe_is_whole(tmp_path):
    """Who writes to a pipe cannot go back to write the length."""
    soundfile.write(tmp_path / "a.wav", np.zeros(80_000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert data_summary.summary(str(tmp_path))["hours"] == pytest.approx(5 / 3600, abs=1e-5)


def test_nothing_good_is_told_too(tmp_path):
    found = data_summary.summary(str(put(tmp_path / "list.jsonl", "{")))
    assert (found["utterances"], found["seconds"], len(found["problems"])) == (0, None, 1)
    assert "seconds" not in data_summary.table(found)


def test_speakers_of_common_voice(tmp_path):
    assert data_summary.summary(str(common_voice(tmp_path)))["speakers"] == 1
