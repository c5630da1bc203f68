import json

import numpy as np
import pytest
import torch

from stablequant.foundation.errors import InputError
from stablequant.quantization.observation.histogram import histogram_of
from stablequant.quantization.search.resume import ResumeState

FINGERPRINT = {"scheme": "w8a8", "seed": 0}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model.calibration"


def begin(folder):
    journal = ResumeState(folder, FINGERPRINT, resume=False)
    journal.add_scores("probe 0", {"a": [0.1, 3.0], "b": [1e-9, 3.0]})
    journal.add_scores("probe 1", {"a": [1 / 3, 5.0]})
    journal.add_tokens("a.wav", [50257, 50362, 7, 8], 2)
    journal.add_tokens("\udcff.wav", [50257, 50362], 2)
    journal.save_stats(8, {"x": histogram_of(torch.tensor([0.1, -3.0])), "y": histogram_of(torch.tensor([1e-30]))})
    return journal


def test_what_was_found_is_there_again(folder):
    begin(folder)
    again = ResumeState(folder, FINGERPRINT, resume=True)
    assert again.scores("probe 0") == {"a": [0.1, 3.0], "b": [1e-9, 3.0]}
    assert again.scores("probe 1") == {"a": [1 / 3, 5.0]}
    assert again.scores("probe 2") is None
    assert again.tokens("a.wav") == ([50257, 50362, 7, 8], 2)
    assert again.tokens("\udcff.wav") == ([50257, 50362], 2)
    assert again.tokens("b.wav") is None
    recordings, stats = again.stats()
    assert (recordings, list(stats)) == (8, ["x", "y"])
    expected = histogram_of(torch.tensor([0.1, -3.0]))
    assert np.array_equal(stats["x"].counts, expected.counts)
    assert (stats["x"].exponent, stats["x"].minimum, stats["x"].maximum) == (
        expected.exponent,
        expected.minimum,
        expected.maximum,
    )


def test_without_resume_it_begins_again(folder, capsys):
    begin(folder)
    assert capsys.readouterr().err == ""
    again = ResumeState(folder, FINGERPRINT, resume=False)
    assert (
        "discarding the partial results of an earlier run; use --resume to continue it instead"
        in capsys.readouterr().err
    )
    assert again.scores("probe 0") is None
    assert again.tokens("a.wav") is None
    assert again.stats() == (0, {})


def test_resume_with_nothing_there_begins(folder):
    assert ResumeState(folder, FINGERPRINT, resume=True).stats() == (0, {})


@pytest.mark.parametrize("cut", range(1, 45, 4))
def test_a_last_line_that_was_half_written_is_left_out(folder, cut):
    begin(folder)
    path = folder / "scores.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again = ResumeState(folder, FINGERPRINT, resume=True)
    assert again.scores("probe 0") == {"a": [0.1, 3.0], "b": [1e-9, 3.0]}
    assert again.scores("probe 1") == ({"a": [1 / 3, 5.0]} if cut == 1 else None)
    again.add_scores("probe 1", {"a": [2.0, 2.0]})
    assert ResumeState(folder, FINGERPRINT, resume=True).scores("probe 1") == {"a": [2.0, 2.0]}
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()][:2] == ["probe 0", "probe 1"]


@pytest.mark.parametrize("content", ["1", "[[1]]", "[7, 2]", '[["x"], 2]', '[[1], "x"]', "{}"])
def test_tokens_that_are_none_are_told_in_a_sentence(folder, content):
    begin(folder)
    (folder / "tokens.jsonl").write_text(f'{{"key": "a.wav", "tokens": {content}}}\n')
    with pytest.raises(InputError, match="damaged; leave out --resume"):
        ResumeState(folder, FINGERPRINT, resume=True).tokens("a.wav")


def test_another_fingerprint_is_refused_and_keeps_what_is_there(folder):
    begin(folder)
    with pytest.raises(InputError, match="started with another model, other recordings or other options") as error:
        ResumeState(folder, {**FINGERPRINT, "seed": 1}, resume=True)
    assert str(folder) in str(error.value)
    assert ResumeState(folder, FINGERPRINT, resume=True).scores("probe 1")


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_somebody_else_is_not_emptied(folder, resume):
    folder.mkdir()
    (folder / "thesis.txt").write_text("the only copy")
    with pytest.raises(InputError, match=r"model\.calibration"):
        ResumeState(folder, FINGERPRINT, resume)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_file_in_its_place_is_refused(folder):
    folder.write_text("mine")
    with pytest.raises(InputError, match=r"model\.calibration"):
        ResumeState(folder, FINGERPRINT, resume=False)
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("name", ["stats.npz", "fingerprint.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04cut"], ids=["empty", "cut"])
def test_a_damaged_file_is_told_in_a_sentence(folder, name, content):
    begin(folder)
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="--resume"):
        ResumeState(folder, FINGERPRINT, resume=True).stats()
    assert ResumeState(folder, FINGERPRINT, resume=False).stats() == (0, {})


def test_afterwards_it_is_gone(folder):
    begin(folder).remove()
    assert not folder.exists()
