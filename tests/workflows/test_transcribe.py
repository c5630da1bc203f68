import io
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tiny
import torch

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import read
from stablequant.models.families import wav2vec2
from stablequant.models.families.base import Geometry
from stablequant.models.recognizer import Recognizer
from stablequant.models.tasks import ctc
from stablequant.models.tasks.base import Word
from stablequant.speech.subtitles import subtitles
from stablequant.workflows.transcribe import Transcript, find, transcribe_files

RATE = 16000
CALIBRATION = Path(__file__).resolve().parents[2] / "calibration"


class Hears(Recognizer):
    """Its network takes waveforms as they are; half a minute whole, however much one call may hold."""

    longest = 30.0

    def inputs(self, waveform):
        return {"input_values": torch.from_numpy(waveform)[None]}


@pytest.fixture
def recognizer(tmp_path):
    """Hears A where it is loud, and remembers what it was asked together."""
    calls = []

    def logits_all(waveforms):
        calls.append([len(each) for each in waveforms])
        return [torch.nn.functional.one_hot(path(each.numpy()), len(tiny.VOCABULARY)) for each in waveforms]

    def path(waveform):
        loud = np.abs(waveform[: len(waveform) // 320 * 320]).reshape(-1, 320).max(1) > 0.05
        return torch.from_numpy(np.where(loud, tiny.VOCABULARY.index("A"), 0))

    about = {"geometry": Geometry(400, 320), "family": wav2vec2, "task": ctc, "batched": logits_all}
    hears = Hears(None, tiny.processor(tmp_path), "", "", RATE, {}, **about)
    object.__setattr__(hears, "calls", calls)
    return hears


def write(folder, **seconds):
    for name, length in seconds.items():
        soundfile.write(folder / f"{name}.wav", np.full(round(length * RATE), 0.1), RATE)
    return [str(folder / f"{name}.wav") for name in seconds]


def test_answers_come_in_order_and_in_groups(recognizer, tmp_path, monkeypatch):
    monkeypatch.setattr("stablequant.models.recognizer.BATCH_SECONDS", 3.0)
    paths = write(tmp_path, a=1, b=2, c=0.01, d=5, e=1)
    found = [heard for _, heard in transcribe_files(recognizer, paths)]
    assert [(each.audio_filepath, each.duration) for each in found] == list(
        zip(paths, [1.0, 2.0, 0.01, 5.0, 1.0], strict=True)
    )
    assert [each.text for each in found] == ["A", "A", "", "A", "A"]
    assert [bool(each.warning) for each in found] == [False, False, True, False, False]
    assert recognizer.calls == [[16000, 32000], [80000], [16000]]


def test_what_cannot_be_read_keeps_its_place(recognizer, tmp_path):
    paths = [*write(tmp_path, a=1), str(tmp_path / "nothing.wav"), *write(tmp_path, b=1)]
    found = list(transcribe_files(recognizer, paths))
    assert [path for path, _ in found] == paths
    assert isinstance(found[1][1], InputError)
    assert [found[0][1].text, found[2][1].text] == ["A", "A"]


def test_nothing_to_hear(recognizer, tmp_path):
    (path,) = write(tmp_path, a=0.01)
    short = "too short to recognise (10 ms; the model needs 25 ms), so its text is empty"
    assert list(transcribe_files(recognizer, [path], words=True)) == [(path, Transcript(path, 0.01, "", (), short))]
    assert list(transcribe_files(recognizer, [])) == []
    assert recognizer.calls == []


def test_words_have_times(recognizer, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.repeat([0.0, 0.1, 0.0], RATE), RATE)
    ((_, heard),) = transcribe_files(recognizer, [str(tmp_path / "a.wav")], words=True)
    assert heard.words == (Word("A", 1.0, 2.0),)
    assert heard.to_json()["words"] == [{"word": "A", "start": 1.0, "end": 2.0}]
    assert "words" not in next(transcribe_files(recognizer, [str(tmp_path / "a.wav")]))[1].to_json()


def test_parts_of_a_text_without_spaces_are_words_of_the_json_and_lines_of_subtitles():
    parts = tuple(Word(each, n, n + 1, n > 0) for n, each in enumerate("你好。"))
    written = Transcript("a.wav", 3.0, "你好。", parts).to_json()
    assert written["words"][1] == {"word": "好", "start": 1, "end": 2}
    assert "你好。" in subtitles(parts, "srt")


def test_long_recording_is_heard_in_pieces_with_times_of_the_whole(recognizer, tmp_path):
    rng = np.random.default_rng(0)
    long = 1e-4 * rng.standard_normal(70 * RATE)
    for second in (2, 30, 64):
        long[second * RATE : (second + 1) * RATE] += 0.1 * np.sign(rng.standard_normal(RATE))
    soundfile.write(tmp_path / "long.wav", long, RATE)
    paths = [*write(tmp_path, a=1), str(tmp_path / "long.wav"), *write(tmp_path, b=1)]
    found = [heard for _, heard in transcribe_files(recognizer, paths, words=True)]
    assert [each.duration for each in found] == [1.0, 70.0, 1.0]
    assert found[1].text == "A A A"
    times = [(each.start, each.end) for each in found[1].words]
    assert np.array(times) == pytest.approx(np.array([(2, 3), (30, 31), (64, 65)]), abs=0.04)
    assert all(sum(call) <= 30 * RATE for call in recognizer.calls)


def test_long_recording_with_a_bad_sample_at_its_end_is_refused(recognizer, tmp_path):
    samples = np.full(40 * RATE, 0.1)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    ((_, problem),) = transcribe_files(recognizer, [str(tmp_path / "a.wav")])
    assert "NaN" in str(problem)


@pytest.mark.parametrize("seconds", [1, 40])
def test_standard_input(recognizer, monkeypatch, seconds):
    sound = io.BytesIO()
    soundfile.write(sound, np.full(seconds * RATE, 0.1), RATE, format="FLAC")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(sound.getvalue())))
    ((path, heard),) = transcribe_files(recognizer, ["-"])
    assert (path, heard.audio_filepath, heard.duration, heard.text) == ("-", "-", seconds, "A")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "standard input: the file is empty"), (b"hello" * 99, "standard input: a text file, not audio")],
)
def test_standard_input_that_is_no_recording(recognizer, monkeypatch, content, message):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    ((_, problem),) = transcribe_files(recognizer, ["-"])
    assert str(problem).startswith(message)


def test_pipe(recognizer, tmp_path):
    (path,) = write(tmp_path, a=1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["/bin/sh", "-c", 'cat "$0" > "$1"', path, str(pipe)]):
        ((_, heard),) = transcribe_files(recognizer, [str(pipe)])
    assert (heard.audio_filepath, heard.duration, heard.text) == (str(pipe), 1.0, "A")


@pytest.mark.parametrize("seconds", [1, 40])
@pytest.mark.parametrize("kind", ["gsm", "flac of unknown length", "wav from a pipe"])
def test_recordings_that_cannot_be_sought_or_have_no_length(recognizer, tmp_path, kind, seconds):
    path, sound = tmp_path / "a", np.full(seconds * RATE, 0.1)
    subtype = "GSM610" if kind == "gsm" else "PCM_16"
    soundfile.write(path, sound, RATE, format="FLAC" if "flac" in kind else "WAV", subtype=subtype)
    content = bytearray(path.read_bytes())
    if "flac" in kind:
        content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])
    if "pipe" in kind:
        content[4:8] = content[40:44] = bytes(4)
    path.write_bytes(content)
    ((_, heard),) = transcribe_files(recognizer, [str(path)])
    assert heard.duration == pytest.approx(seconds, abs=0.03)
    assert set(heard.text) <= {"A", " "}
    assert "A" in heard.text


def test_a_manifest_is_no_recording(recognizer, tmp_path):
    (tmp_path / "manifest.jsonl").write_text("{}")
    ((_, problem),) = transcribe_files(recognizer, [str(tmp_path / "manifest.jsonl")])
    assert "a list, not a recording; pass the recordings" in str(problem)


def test_file_name_that_is_no_utf8(recognizer, tmp_path):
    (path,) = write(tmp_path, a=1)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    Path(path).rename(odd)
    ((_, heard),) = transcribe_files(recognizer, [odd])
    assert (heard.audio_filepath, heard.text) == (odd, "A")


def test_folders_give_their_recordings_sorted(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.FLAC", "b/1.wav", "a.wav", "b/notes.txt", "b/.hidden.wav"):
        (tmp_path / name).touch()
    names = ["b/1.wav", "b/c/2.FLAC"]
    assert find([str(tmp_path / "a.wav"), str(tmp_path / "b"), "-", "no.wav"]) == [
        str(tmp_path / "a.wav"),
        *(str(tmp_path / each) for each in names),
        "-",
        "no.wav",
    ]


def test_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(InputError, match="contains no recordings; pass files"):
        find([str(tmp_path)])


def test_a_row_of_clips_is_heard_like_the_clips(tmp_path):
    """On the embedded model: a minute of clips with pauses gives their words in their order, at their times."""
    recognizer = read.load(str(CALIBRATION / "model"))
    clips = find([str(CALIBRATION / "clips" / "evaluate")])[:24]
    alone = [heard.text for _, heard in transcribe_files(recognizer, clips)]
    sounds, starts = [], []
    for clip in clips:
        starts.append(sum(map(len, sounds)) / RATE)
        sounds += [soundfile.read(clip)[0], np.zeros(RATE // 2)]
    soundfile.write(tmp_path / "long.wav", np.concatenate(sounds), RATE)
    ((_, heard),) = transcribe_files(recognizer, [str(tmp_path / "long.wav")], words=True)
    assert heard.duration > 40
    words = [word for text in alone for word in text.split()]
    assert len(words) > 80
    wrong = sum(a != b for a, b in zip(words, heard.text.split(), strict=True))
    assert wrong <= len(words) / 20  # a piece ends elsewhere than its clip, which may change a word
    assert [each.word for each in heard.words] == heard.text.split()
    numbers = [number for number, text in enumerate(alone) for _ in text.split()]
    for word, number in zip(heard.words, numbers, strict=True):
        assert starts[number] <= word.start < word.end <= [*starts, heard.duration][number + 1]
