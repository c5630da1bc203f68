"""The demo runs the two commands, shows them, and says where the results are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import demo  # noqa: E402


def test_demo_calibrates_and_evaluates(float_folder, speech, tmp_path, capfd):
    words = ["--model", str(float_folder), "--calibrate", str(speech), "--evaluate", str(speech)]
    assert demo.main([*words, "--out", str(tmp_path / "demo")]) == 0
    text = capfd.readouterr().out
    assert text.count("$ sfm-quant") == 2
    assert "times smaller" in text
    for name in demo.PARTS:
        (place,) = [Path(line.split()[0]) for line in text.splitlines() if line.strip().split(" ")[0].endswith(name)]
        assert place.is_file()


def test_a_command_that_fails_ends_the_demo(tmp_path, monkeypatch, shell):
    told = []
    monkeypatch.setattr(demo.subprocess, "run", lambda words, check: told.append(shell(*words[1:])) or told[0])
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--model", str(tmp_path), "--out", str(tmp_path / "demo")])
    assert stopped.value.code == 3
    [failed] = told
    assert "no config.json" in failed.stderr
