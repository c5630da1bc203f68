"""Make the short clips of ``calibration/clips``: synthetic digit strings, one set to calibrate and one to evaluate.

Every clip says 2-7 digits in one synthetic voice, with a random level and light noise; no string occurs twice, so the
two sets have no content in common, and half of the evaluation clips are in voices that training never used.

Command: ``python scripts/make_clips.py`` (needs espeak-ng, flite and festival).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from speech_synthesis import (
    DIGITS,
    ENGLISH,
    RATE,
    Style,
    Voice,
    held_out_voices,
    installed,
    synthesise,
    train_voices,
)

ROOT = Path(__file__).resolve().parents[1]


def plain_voices() -> list[Voice]:
    """Training voices with an English accent (no learner spellings, no croaking), each once."""
    chosen = [v for v in train_voices() if not v.learner and "croak" not in v.name]
    return [v for v in dict.fromkeys(chosen) if v.engine != "espeak-ng" or v.name.split("+")[0] in ENGLISH]


def draw_string(rng: np.random.Generator, used: set[tuple[str, ...]]) -> tuple[str, ...]:
    """A digit string that is not in `used`, which it then joins."""
    while True:
        words = tuple(DIGITS[i] for i in rng.integers(10, size=int(rng.integers(2, 8))))
        if words not in used:
            used.add(words)
            return words


def degrade(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Silence at both ends, a random level (peak 0.1 to 0.7) and noise 22 to 45 dB below the speech."""
    x = np.pad(samples, (int(RATE * rng.uniform(0.03, 0.15)), int(RATE * rng.uniform(0.03, 0.15))))
    x = x * (10 ** rng.uniform(-1.0, -0.15) / np.abs(x).max())
    noise = rng.standard_normal(len(x)) * x.std() * 10 ** (-rng.uniform(22, 45) / 20)
    return np.clip(x + noise, -1, 1).astype(np.float32)


def make_set(
    folder: Path, voices: list[Voice], number: int, rng: np.random.Generator, used: set[tuple[str, ...]]
) -> int:
    """Write `number` clips and their manifest to `folder`; the bytes written."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, size = [], 0
    for i in range(number):
        voice, words = voices[i % len(voices)], draw_string(rng, used)
        style = Style(float(rng.uniform(0.25, 0.8)), float(rng.uniform(0.8, 1.2)), bool(rng.random() < 0.25))
        samples = degrade(synthesise(voice, list(words), style, rng), rng)
        path = folder / f"{i:03d}.flac"
        soundfile.write(path, samples, RATE, subtype="PCM_16")
        row = {"audio_filepath": path.name, "duration": round(len(samples) / RATE, 3), "text": " ".join(words)}
        rows.append(json.dumps(row | {"speaker": voice.label}))
        size += path.stat().st_size
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return size


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "calibration" / "clips")
    parser.add_argument("--calibrate", type=int, default=40)
    parser.add_argument("--evaluate", type=int, default=60)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    rng, used = np.random.default_rng(options.seed), set[tuple[str, ...]]()
    known, unseen = installed(plain_voices()), installed(held_out_voices())
    order = [known[i] for i in rng.permutation(len(known))]
    half = options.evaluate // 2
    size = make_set(options.output / "calibrate", order[: options.calibrate], options.calibrate, rng, used)
    mixed = [v for i, voice in enumerate(order[-half:]) for v in (voice, unseen[i % len(unseen)])]
    size += make_set(options.output / "evaluate", mixed, options.evaluate, rng, used)
    print(f"{options.calibrate} + {options.evaluate} clips, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
