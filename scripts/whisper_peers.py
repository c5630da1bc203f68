"""Words and speed of a Whisper model under the runtimes a user could pick, in turn on the same recordings.

    python scripts/whisper_tiny.py build/whisper-tiny.en      # the float folder, without the hub
    python scripts/whisper_peers.py build/whisper-tiny.en --data MANIFEST --ours build/whisper-w8a8 --json peers.json
    python scripts/whisper_peers.py build/whisper-tiny.en --data MANIFEST --every 8 --min-age 16 --threads 1
    python scripts/whisper_peers.py build/whisper-tiny.en --data MANIFEST --limit 1 --long TEN_MINUTES.flac

Method. Every entry lives in a process of its own and answers one utterance at a time, waveform to text, features
included. Each utterance is asked of every entry, greedy and with beams, in an order drawn anew, while the others
sleep; a machine that slows down slows all alike. Besides wall-clock seconds the table has the processor's seconds of
the entry (all its threads), which other work on the machine hardly changes. What counts is the ratio to a reference of
the same utterance and number of beams: median, and in brackets the quartiles.

Words are compared after Whisper's English normalizer. A text whose compression ratio is above 2.4 counts as looping,
which is the field's own test. `--long` asks every entry that has a way through a long recording, greedy; a transcript
beside it (same name, .txt) gives its error rate.

Peers: whisper_runtimes.py. What they need is in the extra `bench`. A peer that cannot be built is shown with its
reason. `--json` writes everything, the texts too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from entries import Entry, alone, quiet, reason
from provenance import compact_json, provenance
from whisper_runtimes import PEERS, RATE, Listener, Workshop, our_listener, torch_listener, versions

from stablequant.evaluation import error_rates
from stablequant.speech import audio
from stablequant.speech.audio import Utterance

ROOT = Path(__file__).resolve().parents[1]
FLOAT = "torch-fp32"
REFERENCES = (FLOAT, "faster-whisper-int8")
LOOPING = 2.4  # compression ratio of a text
CALIBRATION = 64  # recordings for OpenVINO's int8, where the data has so many
PAUSE = 0.05  # seconds before each answer, in which the threads of the entry before go to sleep
Key = tuple[str, int]  # entry, beams


@dataclass(frozen=True)
class Heard:
    """One answer."""

    text: str
    seconds: float
    cpu_seconds: float  # of all threads of the process


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # of the entries' processes: numpy's and scipy's products too
    quiet()
    about, utterances = provenance(options.seed), chosen(options)
    with contextlib.ExitStack() as opened:
        folder = options.files or opened.enter_context(tempfile.TemporaryDirectory(prefix="stablequant-whisper-"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        workshop = Workshop(Path(options.model), Path(folder), calibration(options))
        entries, failed = open_all(options, workshop, audio.load(utterances[0], RATE), opened)
        answers = ask_all(entries, utterances, options)
        long = dict(ask_long(entries, options.long)) if options.long else {}
    utterances = utterances[: len(next(iter(answers.values()))[0])]  # with --minutes, fewer than chosen
    result = summaries(answers, [each.text or "" for each in utterances])
    print(f"{about['environment']['cpu']} ({', '.join(about['environment']['isa'])}), {options.threads} threads")
    print("\n".join([*table(result, options), *long_table(long), *failures(failed)]))
    if options.json:
        told = {**about, "versions": versions(), "options": vars(options), "failed": failed, "long": long}
        texts = {f"{name}, {beams}": [each.text for each in heard[0]] for (name, beams), heard in answers.items()}
        told |= {"utterances": [each.id for each in utterances], "results": result, "texts": texts}
        Path(options.json).write_text(compact_json(told) + "\n")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", help="float Hugging Face folder")
    made.add_argument("--data", required=True, help="recordings with transcripts")
    made.add_argument("--ours", nargs="*", default=[], metavar="DIR", help="folders of `sfm-quant calibrate`")
    made.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    made.add_argument("--beams", nargs="+", type=int, default=[1, 5])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--rounds", type=int, default=1, help="times that every utterance is asked")
    made.add_argument("--every", type=int, default=1, help="take every so many-th utterance")
    made.add_argument("--min-age", type=float, help="of the speaker, where the manifest tells it")
    made.add_argument("--seconds", nargs=2, type=float, default=[0.0, 30.0], metavar=("FROM", "TO"))
    made.add_argument("--limit", type=int, help="most utterances")
    made.add_argument("--minutes", type=float, default=1e9, help="ask for so long, and report what was asked")
    made.add_argument("--files", metavar="DIR", help="keep the files of the peers here; default: made anew each time")
    made.add_argument("--long", metavar="FILE", help="a long recording")
    made.add_argument(
        "--calibrate", default=str(ROOT / "calibration/clips/calibrate"), help="data for int8 of OpenVINO"
    )
    made.add_argument("--json", metavar="FILE")
    made.add_argument("--seed", type=int, default=0)
    return made


def chosen(options: argparse.Namespace) -> list[Utterance]:
    """Every so many-th of the utterances of the age and length asked for, in an order drawn with the seed."""
    found = audio.listing(options.data, require_text=True).utterances
    if options.min_age is not None:
        rows = [json.loads(line) for line in Path(options.data).read_text().splitlines() if line.strip()]
        found = [each for each, row in zip(found, rows, strict=True) if row["age"] >= options.min_age]
    low, high = options.seconds
    found = [each for each in found if low <= audio.length(each) <= high][:: options.every]
    return random.Random(options.seed).sample(found, len(found))[: options.limit]


def calibration(options: argparse.Namespace) -> list[np.ndarray]:
    found = audio.listing(options.calibrate, require_text=False, max_samples=CALIBRATION, seed=options.seed).utterances
    return [audio.load(each, RATE) for each in found]


def open_all(
    options: argparse.Namespace, workshop: Workshop, warm_up: np.ndarray, opened: contextlib.ExitStack
) -> tuple[dict[str, Entry], dict[str, str]]:
    """A process for each entry, and the reasons of those that cannot be built."""
    entries, failed = {}, {}
    ours = {f"stablequant {Path(folder).name}": Path(folder) for folder in options.ours}
    for name in (FLOAT, *ours, *options.peers):
        entry = Entry(opened)
        try:
            file = workshop.model if name == FLOAT else ours.get(name) or alone(make_here, name, workshop)
            entry.ask(open_here, name, file, options.threads)
            for beams in options.beams:
                entry.ask(hear_here, warm_up, beams)
            entries[name] = entry
        except Exception as error:  # whatever a peer stumbles over is its result
            failed[name] = reason(error)
        print(f"{name}: {failed.get(name, 'open')}", file=sys.stderr, flush=True)
    return entries, failed


def make_here(name: str, workshop: Workshop) -> Path:
    quiet()
    with contextlib.redirect_stdout(sys.stderr):
        return PEERS[name].make(workshop)


def open_here(name: str, file: Path, threads: int) -> None:
    """Load an entry into this process, for `hear_here`."""
    quiet()
    opener = PEERS[name].open if name in PEERS else torch_listener if name == FLOAT else our_listener
    opened_here.append(opener(file, threads))


opened_here: list[Listener] = []  # in the process of an entry: that entry


def hear_here(waveform: np.ndarray, beams: int) -> Heard:
    time.sleep(PAUSE)
    return timed(lambda: opened_here[0].hear(waveform, beams))


def ways_here() -> list[str]:
    return list(opened_here[0].long)


def hear_long_here(way: str, path: str) -> Heard:
    return timed(lambda: opened_here[0].long[way](path))


def timed(answer: Any) -> Heard:
    wall, cpu = time.perf_counter(), time.process_time()
    text = answer()
    return Heard(text, time.perf_counter() - wall, time.process_time() - cpu)


def ask_all(
    entries: dict[str, Entry], utterances: Sequence[Utterance], options: argparse.Namespace
) -> dict[Key, list[list[Heard]]]:
    """Answers by entry and beams, for each round those to all utterances."""
    keys = [(name, beams) for name in entries for beams in options.beams]
    answers: dict[Key, list[list[Heard]]] = {key: [[] for _ in range(options.rounds)] for key in keys}
    orders = random.Random(options.seed)
    until = time.monotonic() + 60 * options.minutes
    for number in range(options.rounds):
        for place, utterance in enumerate(utterances):
            if time.monotonic() > until:
                return {key: [each for each in rounds if each] for key, rounds in answers.items()}
            waveform = audio.load(utterance, RATE)
            for name, beams in orders.sample(keys, len(keys)):
                answers[name, beams][number].append(entries[name].ask(hear_here, waveform, beams))
            print(f"\rround {number + 1}, {place + 1} of {len(utterances)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return answers


def ask_long(entries: dict[str, Entry], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each way of each entry through the long recording; what it stumbles over is its result."""
    transcript = Path(path).with_suffix(".txt")
    reference = transcript.read_text() if transcript.exists() else None
    for name, entry in entries.items():
        for way in entry.ask(ways_here) or ["none"]:
            try:
                heard = entry.ask(hear_long_here, way, path)
                told = {"seconds": heard.seconds, "cpu_seconds": heard.cpu_seconds, "text": heard.text}
                yield f"{name}, {way}", told | ({"wer": wer([reference], [heard.text])} if reference else {})
            except Exception as error:
                yield f"{name}, {way}", {"failed": reason(error)}


def summaries(answers: dict[Key, list[list[Heard]]], references: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for (name, beams), rounds in answers.items():
        heard = [each for one in rounds for each in one]
        ratios = {
            other: quartiles(ratio(answers[other, beams], rounds)) for other in REFERENCES if (other, beams) in answers
        }
        found.append(
            {
                "entry": name,
                "beams": beams,
                "wer": wer(references, [each.text for each in rounds[0]]),
                "words": sum(len(english(each).split()) for each in references),
                "looping": sum(compression(each.text) > LOOPING for each in rounds[0]),
                "seconds": statistics.median(each.seconds for each in heard),
                "cpu_seconds": statistics.median(each.cpu_seconds for each in heard),
                "speedup": ratios,
            }
        )
    return found


def ratio(reference: list[list[Heard]], rounds: list[list[Heard]]) -> list[float]:
    """Seconds of the reference over seconds of an entry, of the same utterance in the same round."""
    pairs = (pair for both in zip(reference, rounds, strict=True) for pair in zip(*both, strict=True))
    return [slow.seconds / fast.seconds for slow, fast in pairs]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


english = error_rates.normalizer("english")


def wer(references: Sequence[str], texts: Sequence[str]) -> float:
    return error_rates.count_words([english(each) for each in references], [english(each) for each in texts]).percent()


def compression(text: str) -> float:
    """Bytes of a text over its compressed bytes; 0 for none."""
    return len(text.encode()) / len(zlib.compress(text.encode())) if text else 0.0


def table(result: Sequence[dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    for beams in options.beams:
        rows = sorted((each for each in result if each["beams"] == beams), key=lambda each: each["seconds"])
        others = [other for other in REFERENCES if other in rows[0]["speedup"]]
        yield f"\n| beams {beams} | WER % | loops | s | CPU s | {' | '.join(f'times {each}' for each in others)} |"
        yield "|---" * (5 + len(others)) + "|"
        for row in rows:
            cells = [f"{row['wer']:.1f}", str(row["looping"]), f"{row['seconds']:.3f}", f"{row['cpu_seconds']:.3f}"]
            cells += ["{1:.2f} [{0:.2f}, {2:.2f}]".format(*row["speedup"][other]) for other in others]
            yield f"| {row['entry']} | {' | '.join(cells)} |"


def long_table(long: dict[str, dict[str, Any]]) -> Iterator[str]:
    if long:
        yield "\n| long recording | s | CPU s | WER % |\n|---|---|---|---|"
    for name, each in long.items():
        if "failed" in each:
            yield f"| {name} | {each['failed']} | | |"
        else:
            error = f"{each['wer']:.1f}" if "wer" in each else ""
            yield f"| {name} | {each['seconds']:.1f} | {each['cpu_seconds']:.1f} | {error} |"


def failures(failed: dict[str, str]) -> Iterator[str]:
    return (f"- {name} could not be built: {why}" for name, why in failed.items())


if __name__ == "__main__":
    main()
