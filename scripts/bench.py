"""Latency of the integer model beside what a user could run instead, on published shapes with random weights.

    make bench                                      # three shapes at 2, 10 and 30 s, all peers, time split, floor
    python scripts/bench.py --shapes wav2vec2-base --seconds 2 10 30 --peers
    python scripts/bench.py --calibration --peers                     # also the cost of a full calibration
    python scripts/bench.py --models calibration/model build/demo/model-w8a8
    python scripts/bench.py --shapes --whisper                        # only Whisper tiny.en
    python scripts/bench.py --shapes --whisper FLOAT INT8             # only these folders of Whisper

Method. Every entry lives in a process of its own, as a user runs one model, and answers the same waveform of noise at
batch 1 with the same number of threads; what is timed, inside that process, is the step from samples to logits. (In
one process they are not themselves: what one allocator, heap or pool of threads is left with changes the next.) After
two answers to warm up, each round asks every entry once, in an order of its own, while the others sleep: a machine
that slows down slows all alike, and nobody always follows the same one. Each gives two answers in a row: the first
finds the caches as the others left them, the second as a busy server has them, and both are in the table. What counts
is the ratio to torch float32 *of the same round*, of the second answers: the median over the rounds, with the smallest
and the largest. Logits are compared with torch float32's, ||a - b|| / ||b||, to show that an entry computes the model
at all; with random weights this says nothing about words.

Peers (peers.py): torch bfloat16; ONNX Runtime, float32 and static int8 (QDQ, per channel); OpenVINO float32, and int8
by NNCF (transformer preset) with the rest in float32 or in bfloat16. What they need is in the extra `bench`. A peer
that cannot be built is shown with its reason.

`--whisper` adds whisper_peers.py: words and speed of Whisper tiny.en, made by whisper_tiny.py, or of a folder.

Beside the table: where our time goes and the floor under it, the seconds that loading takes and the peak
memory of a process that loads a model and transcribes the waveform, float and integer in turn. The last line is
everything as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anatomy
import numpy as np
import peers
import torch
import whisper_peers
import whisper_tiny
from entries import Entry, alone, quiet, reason
from peers import PEERS, Answer, Workshop, torch_answer
from provenance import compact_json, provenance
from shapes import SHAPES, build

from stablequant.engines.onednn.operators.stopwatch import time_split
from stablequant.evaluation.peak_memory import own_peak_bytes, peak_rss_bytes
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.families.wav2vec2 import prepare
from stablequant.quantization.plan.plan import read_plan
from stablequant.workflows.calibrate import calibrate

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000  # samples a second
PAUSE = 0.05  # seconds before each timed answer, in which the threads of the entry before go to sleep
LOAD = """
import sys, time
import stablequant
from transformers import AutoModelForCTC
start = time.perf_counter()
AutoModelForCTC.from_pretrained(sys.argv[1])
print(time.perf_counter() - start)
"""
FLOAT = "torch-fp32"
OURS = "stablequant"


@dataclass(frozen=True)
class Timing:
    """One entry at one length of audio."""

    ms: float  # median, of an answer that follows another
    first_ms: float  # median, of one after a pause, with the caches as others left them
    speedup: float  # against torch float32 in the same round, median
    speedup_range: tuple[float, float]
    relative_logit_error: float | None  # None: logits of another shape


Timings = dict[str, Timing]


@dataclass(frozen=True)
class Footprint:
    """What starting a model costs, medians over a few new processes."""

    load_seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Calibration:
    """What writing the integer model cost."""

    method: str
    recordings: int
    float_passes: float
    seconds: float
    peak_rss_bytes: int
    compression: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    quiet()
    results = {}
    with tempfile.TemporaryDirectory(prefix="stablequant-bench-") as folder:
        for model, integer, cost in models(options, Path(folder)):
            if cost:
                show(f"{model.name}: {describe(cost)}")
            footprints = footprint({FLOAT: model, OURS: integer}, options)
            show("\n".join(f"{model.name}: {line}" for line in footprint_lines(footprints)))
            splits, floors = anatomy_of(model, integer, options)
            show("\n".join(anatomy_table(model.name, splits, floors)))
            timings, failed = bench(model, integer, options)
            show("\n".join([*table(model.name, timings), *failures(failed)]))
            about = {"calibration": cost, "footprint": footprints, "split_ms": splits, "floor_ms": floors}
            results[model.name] = about | {"timings": timings, "failed": failed}
        if options.whisper is not None:
            whisper(options, Path(folder))
    asked = {key: getattr(options, key) for key in ("seconds", "threads", "rounds", "seed")}
    result = {**provenance(options.seed), **asked, "versions": peers.versions(), "results": results}
    print(compact_json(result))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shapes", nargs="*", default=["wav2vec2-base", "hubert-large", "wavlm-base"], choices=SHAPES)
    made.add_argument("--models", nargs=2, metavar=("FLOAT", "INT8"), help="time these two folders instead of shapes")
    made.add_argument("--seconds", nargs="+", type=float, default=[2.0, 10.0, 30.0], help="length of the waveform")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    made.add_argument("--calibration", action="store_true", help="calibrate as a user would, not in the quickest way")
    made.add_argument("--data", default=str(ROOT / "calibration/clips/calibrate"), help="what to calibrate with")
    made.add_argument("--whisper", nargs="*", metavar="DIR", help="also Whisper: float and integer folder, or tiny.en")
    made.add_argument("--whisper-data", default=str(ROOT / "calibration/clips/evaluate"), help="what Whisper hears")
    made.add_argument("--seed", type=int, default=0)
    return made


def whisper(options: argparse.Namespace, folder: Path) -> None:
    """Whisper beside its peers; a step that cannot be done is shown with its reason."""
    given = [Path(each) for each in options.whisper]
    try:
        if not given:
            whisper_tiny.make(whisper_tiny.packaged(), folder / "whisper-tiny.en")
            given = [folder / "whisper-tiny.en", folder / "whisper-tiny.en-w8a8"]
            show(f"whisper-tiny.en: {describe(calibrate_apart(*given, options))}")
    except Exception as error:  # as with peers
        show(f"whisper-tiny.en: {reason(error)}")
    model, *ours = [each for each in given if each.exists()] or [None]
    if model:
        asked = [str(model), "--data", options.whisper_data, "--threads", str(options.threads)]
        whisper_peers.main([*asked, "--ours", *map(str, ours)])


def models(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, Path, Calibration | None]]:
    """Float and integer folder of each model to time; shapes are built and calibrated on the way."""
    if options.models:
        model, integer = options.models
        yield Path(model), Path(integer), None
        return
    for shape in options.shapes:
        model, integer = build(shape, folder / shape, options.seed), folder / f"{shape}-w8a8"
        yield model, integer, calibrate_apart(model, integer, options)


def calibrate_apart(model: Path, out: Path, options: argparse.Namespace) -> Calibration:
    """Calibrate in a process of its own, so that its peak memory is that of calibration."""
    method, samples = ("stable", None) if options.calibration else ("max", 2)
    asked = CalibrateOptions(str(model), options.data, str(out), method=method, max_samples=samples, seed=options.seed)
    told, peak = alone(calibrate_here, asked, options.threads)
    return Calibration(
        method=told["method"],
        recordings=read_plan(Path(told["plan"])).calibration["recordings"],
        float_passes=told["float_passes"],
        seconds=told["seconds"],
        peak_rss_bytes=peak,
        compression=told["bytes_before"] / told["bytes_after"],
    )


def calibrate_here(asked: CalibrateOptions, threads: int) -> tuple[dict[str, Any], int]:
    """The calibrate JSON and the peak memory of this process."""
    torch.set_num_threads(threads)
    quiet()
    return calibrate(asked), own_peak_bytes()


def footprint(folders: dict[str, Path], options: argparse.Namespace, rounds: int = 3) -> dict[str, Footprint]:
    """Each model loaded in new processes, in turn; the memory is that of answering the second of the lengths."""
    seconds = sorted(options.seconds)[len(options.seconds) // 2]
    peaks = {name: peak_rss_bytes(str(path), seconds, options.threads) for name, path in folders.items()}
    loads: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(rounds):
        for name, path in folders.items():
            command = [sys.executable, "-c", LOAD, str(path)]
            loads[name].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return {name: Footprint(statistics.median(loads[name]), peaks[name] or 0) for name in folders}


def footprint_lines(found: dict[str, Footprint]) -> Iterator[str]:
    for name, each in found.items():
        yield f"{name} loads in {each.load_seconds:.2f} s, {each.peak_rss_bytes / 1e6:.0f} MB of memory at most"


def anatomy_of(
    model: Path, integer: Path, options: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Milliseconds by part, and the floor, at every length."""
    loaded, plain = peers.load(integer), prepare(peers.load(model))
    splits, floors = {}, {}
    for seconds in options.seconds:
        waveform = torch.from_numpy(noise(seconds, options.seed))
        splits[f"{seconds:g}"] = time_split(functools.partial(loaded, waveform), options.rounds)
        floors[f"{seconds:g}"] = anatomy.floor_ms(anatomy.multiply_adds(plain, waveform))
    return splits, floors


def anatomy_table(name: str, splits: dict[str, dict[str, float]], floors: dict[str, float]) -> Iterator[str]:
    parts = list(dict.fromkeys(part for split in splits.values() for part in split))
    yield f"\n| {name}, ms | {' | '.join(parts)} | floor of the arithmetic |"
    yield "|---" * (len(parts) + 2) + "|"
    for length, split in splits.items():
        cells = " | ".join(f"{split.get(part, 0.0):.1f}" for part in parts)
        yield f"| {length} s | {cells} | {floors[length]:.1f} |"


def bench(model: Path, integer: Path, options: argparse.Namespace) -> tuple[dict[str, Timings], dict[str, str]]:
    """Open every entry once, then time all of them at every length; the reasons of those that cannot be made."""
    samples = [noise(min(options.seconds), options.seed + 1 + number) for number in range(2)]
    entries, failed = {}, {}
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="stablequant-peers-")))
        workshop = Workshop(model, samples, folder)
        files = {FLOAT: model, OURS: integer}
        for name in (FLOAT, OURS, *options.peers):
            entry = Entry(opened)
            try:
                file = files.get(name) or alone(make_here, name, workshop)
                entry.ask(open_here, name, file, options.threads)
                entries[name] = entry
            except Exception as error:  # whatever a peer stumbles over is its result
                failed[name] = reason(error)
        return {f"{seconds:g}": time_all(entries, seconds, options) for seconds in options.seconds}, failed


def make_here(name: str, workshop: Workshop) -> Path:
    quiet()
    with contextlib.redirect_stdout(sys.stderr):
        return PEERS[name].make(workshop)


def open_here(name: str, file: Path, threads: int) -> None:
    """Load an entry into this process, for `time_here`."""
    quiet()
    opened_here[name] = (PEERS[name].open if name in PEERS else torch_answer)(file, threads)


opened_here: dict[str, Answer] = {}  # in the process of an entry: that entry


def time_here(waveform: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds of an answer after a pause and of the one that follows it, and the logits."""
    (answer,) = opened_here.values()
    time.sleep(PAUSE)
    first = time.perf_counter()
    answer(waveform)
    second = time.perf_counter()
    logits = answer(waveform)
    return second - first, time.perf_counter() - second, np.asarray(logits, np.float32)


def time_all(entries: dict[str, Entry], seconds: float, options: argparse.Namespace) -> Timings:
    """All entries on one waveform, round by round, each in an order of its own."""
    waveform, orders = noise(seconds, options.seed), random.Random(options.seed)
    logits = {name: entry.ask(time_here, waveform)[2] for name, entry in entries.items()}
    rounds = []
    for _ in range(options.rounds):
        order = orders.sample(list(entries), len(entries))
        rounds.append({name: entries[name].ask(time_here, waveform)[:2] for name in order})
    return {name: summary(name, rounds, logits) for name in entries}


def summary(name: str, rounds: Sequence[dict[str, tuple[float, float]]], logits: dict[str, np.ndarray]) -> Timing:
    ratios = [each[FLOAT][1] / each[name][1] for each in rounds]
    first, second = (1000 * statistics.median(each[name][place] for each in rounds) for place in (0, 1))
    return Timing(
        ms=second,
        first_ms=first,
        speedup=statistics.median(ratios),
        speedup_range=(min(ratios), max(ratios)),
        relative_logit_error=relative_error(logits[name], logits[FLOAT]),
    )


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float | None:
    if logits.shape != reference.shape:
        return None
    return float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))


def noise(seconds: float, seed: int) -> np.ndarray:
    """White noise of unit power (1, samples), which is what the feature extractor makes of any waveform."""
    return np.random.default_rng(seed).standard_normal((1, round(seconds * RATE))).astype(np.float32)


def describe(found: Calibration) -> str:
    return (
        f"calibrated with {found.method} on {found.recordings} recordings in {found.seconds:.0f} s, "
        f"{found.float_passes:g} float passes, {found.peak_rss_bytes / 2**30:.1f} GiB of memory at most, "
        f"{found.compression:.2f} times smaller"
    )


def table(name: str, timings: dict[str, Timings]) -> Iterator[str]:
    for length, entries in timings.items():
        yield f"\n| {name}, {length} s | ms | after a pause | times torch float32 [least, most] | logit error |"
        yield "|---|---|---|---|---|"
        for entry, each in sorted(entries.items(), key=lambda item: item[1].ms):
            low, high = each.speedup_range
            error = "other shape" if each.relative_logit_error is None else f"{each.relative_logit_error:.1e}"
            speedup = f"{each.speedup:.2f} [{low:.2f}, {high:.2f}]"
            yield f"| {entry} | {each.ms:.1f} | {each.first_ms:.1f} | {speedup} | {error} |"


def failures(failed: dict[str, str]) -> Iterator[str]:
    return (f"- {name} could not be built: {why}" for name, why in failed.items())


def show(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
