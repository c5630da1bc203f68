"""A data set saved to disk, with a module in place of the package `datasets`."""

import sys

import numpy as np
import pytest
from speech.layouts.examples import Audio, Rows, put, saved_dataset, write

from stablequant.foundation.errors import InputError
from stablequant.speech import audio


def read(data):
    return audio.listing(data, require_text=True).utterances


def test_recordings_are_read_out_of_it_when_they_are_needed(tmp_path, monkeypatch):
    first, second = read(saved_dataset(tmp_path / "set", monkeypatch))
    assert (first.id, first.text, first.speaker, first.source) == ("0", "GO ON", "84", f"{tmp_path / 'set'} row 0")
    expected = np.random.default_rng(1).uniform(-0.5, 0.5, 8000)
    assert np.abs(audio.load(second, 16000) - expected).max() < 1e-4


def test_without_the_package_one_sentence_names_the_extra(tmp_path, monkeypatch):
    folder = saved_dataset(tmp_path / "set", monkeypatch)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"set: saved by the package `datasets`.*stablequant\[datasets\]") as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_recording_that_is_only_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav")
    rows = [{"audio": {"bytes": None, "path": str(path)}, "text": "A"}]
    (found,) = read(saved_dataset(tmp_path / "set", monkeypatch, rows))
    assert len(audio.load(found, 16000)) == 8000
    path.unlink()
    with pytest.raises(InputError, match=r"set row 0: contains no recording and there is no .*a\.wav; save it again"):
        audio.load(found, 16000)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": None, "text": 5}, "set row 0: text is 5, not a string"),
        ({"audio": None, "text": None}, "set row 0: no transcript"),
    ],
)
def test_bad_row_is_named(tmp_path, monkeypatch, row, message):
    with pytest.raises(InputError, match=message):
        read(saved_dataset(tmp_path / "set", monkeypatch, [row]))


@pytest.mark.parametrize("columns", [{"text": "string"}, {"audio": Audio(), "noise": Audio()}])
def test_one_column_has_to_be_the_sound(tmp_path, monkeypatch, columns):
    folder = saved_dataset(tmp_path / "set", monkeypatch)
    monkeypatch.setattr(Rows, "features", columns)
    with pytest.raises(InputError, match=r"of its columns \(.*\) are of type Audio; keep exactly one"):
        read(folder)


def test_package_that_cannot_read_it(tmp_path, monkeypatch):
    def fail(path):
        raise OSError("Not an\nArrow file.")

    folder = saved_dataset(tmp_path / "set", monkeypatch)
    monkeypatch.setattr(sys.modules["datasets"], "load_from_disk", fail)
    with pytest.raises(InputError, match=r"`datasets` cannot read it \(Not an Arrow file\); save it to disk again"):
        read(folder)


def test_splits_are_not_mixed(tmp_path, monkeypatch):
    put(tmp_path / "set/dataset_dict.json", '{"splits": ["test", "train"]}')
    saved_dataset(tmp_path / "set/test", monkeypatch)
    assert len(read(tmp_path / "set")) == 2
    saved_dataset(tmp_path / "set/train", monkeypatch)
    with pytest.raises(InputError, match=r"contains 2 splits \(.*test, .*train\); pass the folder of one"):
        read(tmp_path / "set")
