"""The bench: what it makes of times, of peers that fail, and of a pair of folders."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import bench  # noqa: E402
import peers  # noqa: E402
import shapes  # noqa: E402
from provenance import compact_json  # noqa: E402

from stablequant.models.checkpoint import read  # noqa: E402


def test_speedup_is_the_median_of_the_ratios_of_second_answers_within_rounds():
    seconds = {bench.FLOAT: (1.0, 4.0, 1.0), "a": (0.5, 1.0, 0.1)}
    rounds = [{name: (9.0, each[number]) for name, each in seconds.items()} for number in range(3)]
    logits = {bench.FLOAT: np.ones((1, 2, 3)), "a": np.full((1, 2, 3), 1.1)}
    found = bench.summary("a", rounds, logits)
    assert found.speedup == 4
    assert found.speedup_range == (2, 10)
    assert (found.ms, found.first_ms) == (500, 9000)
    assert found.relative_logit_error == pytest.approx(0.1)


def test_logits_of_another_shape_have_no_error():
    assert bench.relative_error(np.ones((1, 2)), np.ones((1, 3))) is None


class Heard:
    """An entry that notes what it is asked."""

    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def ask(self, what, waveform):
        assert what is bench.time_here
        self.heard.append((self.name, waveform.shape))
        return 1.0, 1.0, np.ones((1, 1, 1))


def test_every_entry_answers_once_to_warm_up_and_once_a_round_in_changing_order():
    heard = []
    entries = {name: Heard(name, heard) for name in (bench.FLOAT, "a")}
    found = bench.time_all(entries, 0.5, Namespace(seed=0, rounds=8))
    assert set(found) == set(entries)
    assert {shape for _, shape in heard} == {(1, 8000)}
    rounds = [tuple(name for name, _ in heard[at : at + 2]) for at in range(0, 18, 2)]
    assert all(sorted(each) == sorted(entries) for each in rounds)
    assert len(set(rounds)) == 2


def test_an_entry_gives_two_answers_after_a_pause(monkeypatch):
    heard = []
    monkeypatch.setattr(bench, "PAUSE", 0.01)
    monkeypatch.setattr(bench, "opened_here", {"a": lambda x: heard.append(x) or np.ones((1, 2, 3))})
    first, second, logits = bench.time_here(np.zeros((1, 8)))
    assert len(heard) == 2
    assert min(first, second) >= 0
    assert logits.dtype == np.float32


def test_an_entry_is_a_process_of_its_own():
    with contextlib.ExitStack() as opened:
        entries = [bench.Entry(opened) for _ in range(2)]
        processes = [entry.ask(os.getpid) for entry in entries]
        assert [entry.ask(os.getpid) for entry in entries] == processes
    assert len({*processes, os.getpid()}) == 3


def test_a_peer_that_fails_is_told_with_its_reason(float_folder, monkeypatch):
    def fail(what, *_):
        raise RuntimeError("no such operator\nat line 3")

    monkeypatch.setattr(bench, "alone", fail)
    asked = Namespace(seconds=[0.2], seed=0, peers=["onnxruntime-int8"], threads=1, rounds=1)
    timings, failed = bench.bench(float_folder, float_folder, asked)
    assert failed == {"onnxruntime-int8": "RuntimeError: no such operator"}
    assert set(timings["0.2"]) == {bench.FLOAT, bench.OURS}


def test_command_on_two_folders(float_folder, calibrated, capsys):
    words = ["--models", str(float_folder), str(calibrated[0]), "--seconds", "0.2", "0.3", "--rounds", "1"]
    bench.main([*words, "--threads", "1", "--peers", "torch-bf16"])
    text = capsys.readouterr().out
    (result,) = json.loads(text.splitlines()[-1])["results"].values()
    assert set(result["timings"]) == {"0.2", "0.3"}
    assert set(result["timings"]["0.2"]) == {bench.FLOAT, bench.OURS, "torch-bf16"}
    assert result["timings"]["0.3"][bench.OURS]["relative_logit_error"] < 0.5
    assert text.count("| stablequant |") == 2
    assert result["floor_ms"]["0.2"] > 0
    split = result["split_ms"]["0.3"]
    assert {"extractor", "positional", "products", "attention", "quantize", "norms", "rest"} == set(split)
    assert all(milliseconds > 0 for milliseconds in split.values())
    assert result["footprint"][bench.OURS]["peak_rss_bytes"] > 1e8
    assert result["footprint"][bench.FLOAT]["load_seconds"] > 0


def test_shapes_can_be_calibrated(tmp_path, speech):
    model = shapes.build("tiny", tmp_path / "tiny")
    assert read.load(str(model)).processor.tokenizer.vocab_size == len(shapes.VOCABULARY)
    cost = bench.calibrate_apart(
        model, tmp_path / "w8a8", Namespace(calibration=False, data=str(speech), seed=0, threads=1)
    )
    assert (cost.method, cost.recordings) == ("max", 2)
    assert cost.peak_rss_bytes > 1e8
    assert "with max on 2 recordings" in bench.describe(cost)


def test_large_shape_is_the_published_one():
    config = shapes.SHAPES["hubert-large"]
    assert (config.hidden_size, config.num_hidden_layers, config.do_stable_layer_norm) == (1024, 24, True)
    assert shapes.SHAPES["wav2vec2-base"].hidden_size == 768


def test_versions_are_of_what_is_installed():
    assert set(peers.versions()) <= set(peers.PACKAGES)


def test_compact_json_is_one_line_of_plain_values():
    timing = bench.Timing(1.23456789, 1.5, 2.0, (1.0, 3.0), None)
    expected = '{"ms":1.2346,"first_ms":1.5,"speedup":2.0,"speedup_range":[1.0,3.0],"relative_logit_error":null}'
    assert compact_json(timing) == expected
