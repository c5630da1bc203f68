"""Long recordings: utterances in a row with short pauses, heard as one recording and one by one.

    python scripts/longform.py calibration/model calibration/clips/evaluate --minutes 30
    python scripts/longform.py calibration/model calibration/clips/evaluate --minutes 120 --no-words

The utterances are drawn in random order, again and again until the time is full, each followed by a pause of noise.
The same utterances one by one are the measure, once as they are and once with 50 ms of silence on either side, which a
piece has and which alone changes what some models hear. The last line is JSON; `peak_mb` is of this process, so run
one length at a time. `--no-words` leaves the answers one by one out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from provenance import compact_json, provenance

from stablequant.evaluation import error_rates, peak_memory
from stablequant.models.checkpoint import read
from stablequant.models.recognizer import Recognizer
from stablequant.speech import audio
from stablequant.speech.audio import Utterance
from stablequant.speech.pauses import PAD
from stablequant.workflows.transcribe import transcribe_files

NOISE = 1e-4  # standard deviation of the pauses: -80 dB of full scale


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    recognizer = read.load(options.model)
    utterances = audio.listing(options.data, require_text=True).utterances
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "long.flac")
        rows = write(path, utterances, recognizer.sampling_rate, options)
        ((_, heard),) = transcribe_files(recognizer, [path])
        peak = peak_memory.own_peak_bytes()
    reference = " ".join(utterances[row].text or "" for row in rows)
    found = {"minutes": options.minutes, "peak_mb": peak / 1e6, "utterances": len(rows)}
    found["words"] = len(reference.split())
    found["long_percent"] = error_rates.count_words([reference], [heard.text]).percent()
    if options.words:
        for name, pad in (("alone_percent", 0.0), ("alone_padded_percent", PAD)):
            answers = {row: alone(recognizer, utterances[row], pad) for row in sorted(set(rows))}
            texts = [utterances[row].text or "" for row in rows]
            found[name] = error_rates.count_words(texts, [answers[row] for row in rows]).percent()
    print(compact_json({**found, "data": options.data, "pause": options.pause, **provenance(options.seed)}))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model")
    made.add_argument("data")
    made.add_argument("--minutes", type=float, default=30.0)
    made.add_argument("--pause", type=float, nargs=2, default=[0.3, 0.7], metavar=("FROM", "TO"), help="seconds")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--no-words", dest="words", action="store_false")
    return made


def write(path: str, utterances: list[Utterance], rate: int, options: Any) -> list[int]:
    """Write the long recording; the rows of `utterances` in it, in order."""
    rng, rows, samples = np.random.default_rng(options.seed), [], 0
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for row in endless(rng, len(utterances)):
            pause = NOISE * rng.standard_normal(round(rng.uniform(*options.pause) * rate))
            sound = np.concatenate([audio.load(utterances[row], rate), pause])
            file.write(sound)
            rows.append(row)
            samples += len(sound)
            if samples >= 60 * options.minutes * rate:
                return rows
    return rows


def endless(rng: np.random.Generator, count: int) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()


def alone(recognizer: Recognizer, utterance: Utterance, pad: float) -> str:
    waveform = audio.load(utterance, recognizer.sampling_rate)
    return recognizer.transcribe(np.pad(waveform, round(pad * recognizer.sampling_rate)))


if __name__ == "__main__":
    main()
