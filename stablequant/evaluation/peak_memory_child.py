"""The process that peak_memory.py measures: load a model, transcribe some seconds of noise, print the peak."""

from __future__ import annotations

import sys

import numpy as np
import torch

from ..models.checkpoint import read
from .peak_memory import own_peak_bytes


def main(model: str, seconds: str, threads: str, target_lang: str | None = None) -> None:
    torch.set_num_threads(int(threads))
    recognizer = read.load(model, target_lang)
    samples = round(float(seconds) * recognizer.sampling_rate)
    recognizer.transcribe(0.1 * np.random.default_rng(0).standard_normal(samples, dtype=np.float32))
    print(own_peak_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
