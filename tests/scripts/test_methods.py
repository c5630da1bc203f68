"""The comparison of range methods: its rows, its tables, and what a second run takes over."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import methods  # noqa: E402

from stablequant.evaluation.error_rates import Counts  # noqa: E402


@pytest.fixture
def command(float_folder, speech, tmp_path):
    out = str(tmp_path / "methods")
    words = ["--model", float_folder, "--calibrate", speech, "--evaluate", speech, "--methods", "max", "stable"]
    return [str(word) for word in [*words, "--out", out]]


def test_rows_and_reuse(command, capsys, monkeypatch):
    methods.main(command)
    text = capsys.readouterr().out
    first = json.loads(text.splitlines()[-1])
    assert [(row["scheme"], row["method"]) for row in first["rows"]] == [
        ("float32", ""),
        ("w8a8", "max"),
        ("w8a8", "stable"),
    ]
    assert first["rows"][0]["compression"] == 1
    (measured,) = first["rows"][2]["sets"].values()
    assert measured["worse"]["points"] == pytest.approx(
        measured["wer_percent"] - next(iter(first["rows"][0]["sets"].values()))["wer_percent"], abs=0.01
    )
    assert "| w8a8 | stable |" in text

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(methods, "calibrate", refuse)
    monkeypatch.setattr(methods, "answer", refuse)
    methods.main([*command, "--reuse"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == first["rows"]


def test_answers_of_other_weights_are_not_reused(calibrated, float_folder, speech):
    utterances = methods.audio.listing(speech, require_text=True).utterances
    float_model, quantized = methods.read.load(str(float_folder)), methods.read.load(str(calibrated[0]))
    names = {methods.fingerprint(each, utterances) for each in (float_model, quantized)}
    assert len(names) == 2
    assert methods.fingerprint(float_model, utterances[1:]) not in names


def test_cell_shows_the_difference_with_its_interval():
    counts = [
        Counts(*(np.array(row) for row in rows))
        for rows in (((9, 9), (1, 1), (0, 0), (0, 0)), ((10, 10), *[(0, 0)] * 3))
    ]
    found = methods.measure({"set": counts[0]}, {"set": counts[1]}, seed=0)["set"]
    assert methods.cell(found) == "10.00 [10.00, 10.00] | +10.00 [+10.00, +10.00], p 0.0002"


@pytest.mark.parametrize(
    ("data", "name"),
    [("../x/so762-dev/digits.jsonl", "so762-dev/digits"), ("clips/evaluate/", "clips/evaluate"), ("an4", "an4")],
)
def test_names_of_sets(data, name):
    assert methods.name_of(data) == name
