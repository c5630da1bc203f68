from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from stablequant.errors import InputError
from stablequant.transcribe import transcribe_files

RATE = 16000


@pytest.fixture
def recognizer():
    """Hears the length of each recording, and remembers what it was asked together."""
    calls = []

    def transcribe_all(waveforms):
        calls.append([len(each) for each in waveforms])
        return [str(len(each)) for each in waveforms]

    return SimpleNamespace(transcribe_all=transcribe_all, sampling_rate=RATE, min_samples=400, calls=calls)


def write(folder, **seconds):
    for name, length in seconds.items():
        soundfile.write(folder / f"{name}.wav", np.full(round(length * RATE), 0.1), RATE)
    return [str(folder / f"{name}.wav") for name in seconds]


def test_answers_come_in_order_and_in_groups(recognizer, tmp_path, monkeypatch):
    monkeypatch.setattr("stablequant.transcribe.PACK_SECONDS", 3.0)
    paths = write(tmp_path, a=1, b=2, c=0.01, d=5, e=1)
    assert [text for _, text in transcribe_files(recognizer, paths)] == ["16000", "32000", "", "80000", "16000"]
    assert recognizer.calls == [[16000, 32000], [80000], [16000]]


def test_what_cannot_be_read_keeps_its_place(recognizer, tmp_path):
    paths = [*write(tmp_path, a=1), str(tmp_path / "nothing.wav"), *write(tmp_path, b=1)]
    found = list(transcribe_files(recognizer, paths))
    assert [path for path, _ in found] == paths
    assert isinstance(found[1][1], InputError)
    assert [found[0][1], found[2][1]] == ["16000", "16000"]


def test_nothing_to_hear(recognizer, tmp_path):
    assert list(transcribe_files(recognizer, write(tmp_path, a=0.01))) == [(str(tmp_path / "a.wav"), "")]
    assert list(transcribe_files(recognizer, [])) == []
    assert recognizer.calls == []
