"""The table of trained models: every way on a tiny model, and what a second run takes over."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import pytest  # noqa: E402
import trained  # noqa: E402


@pytest.mark.filterwarnings("ignore:.*its weights were trained")  # two-stage rounds them again: that is what it is
def test_every_way(float_folder, speech, tmp_path, capsys, monkeypatch):
    words = ["--model", float_folder, "--train", speech, "--test", speech, "--targets", "1.3", "--schemes", "w3a8"]
    words += ["--steps", "2", "--layer-steps", "2", "--out", tmp_path / "out", "--json", tmp_path / "r.json"]
    monkeypatch.setattr(sys, "argv", ["trained.py", *map(str, words)])
    trained.main()
    found = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [(row["wanted"], row["way"]) for row in found] == [
        ("", "float"),
        *(("1.3 times", way) for way in trained.WAYS),
        ("w3a8", "calibrated"),
        ("w3a8", "measured"),
    ]
    assert found[0]["sets"][0]["changed"] == 0
    assert all(row["compression"] >= 1.3 for row in found if row["wanted"] == "1.3 times")
    assert all(row["sets"][0]["changed"] > 0 for row in found[1:])
    one, two = ((tmp_path / "out" / "1.3 times" / way / "plan.json").read_text() for way in trained.WAYS[2:])
    bits = [[site.get("weight_bits") for site in json.loads(plan)["sites"].values()] for plan in (one, two)]
    assert bits[0] == bits[1], "two stages have the bits that one has learned"
    records = {way: (tmp_path / "out" / "1.3 times" / way / "evidence" / "training.jsonl") for way in trained.WAYS[1:]}
    learned = {way: '"widths"' in path.read_text() for way, path in records.items()}
    assert learned == {"measured": False, "one-stage": True, "two-stage": False}
    capsys.readouterr()
    monkeypatch.setattr(trained.stablequant, "tune", None)
    trained.main()
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("|  | float |")
    assert json.loads(shown[-1])["rows"][1]["seconds"] is None
