"""The histograms behind a plan, stored with it in a coarse form, so that the report can draw them.

They are plain JSON: readable, the same bytes for the same statistics, about 0.5 kB per site. Loading a model does not
read them, and a folder without them is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...foundation import strict_json
from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from ...quantization.observation.histogram import HALF, Histogram, coarse

FILE = Path("evidence") / "histograms.json"
SCHEMA = 1
BINS = 128  # at most, of each site: as fine as a plot shows


def write(folder: Path, stats: Mapping[str, Histogram]) -> None:
    """Write {site: Histogram} coarsely into a quantized folder."""
    sites = ",\n".join(f"{json.dumps(name)}: {json.dumps(_entry(coarse(seen, BINS)))}" for name, seen in stats.items())
    (folder / FILE).parent.mkdir()
    (folder / FILE).write_text(
        f'{{"schema": {SCHEMA}, "sites": {{\n{sites}\n}}}}\n', encoding="utf-8", errors="backslashreplace"
    )


def read(folder: Path) -> dict[str, Histogram]:
    """What `write` wrote; empty when the folder has no such file. InputError when it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return {}
    text = strict_json.text_of(path, "the file as it was written")
    try:
        data = strict_json.mapping(strict_json.parsed(text), "the file")
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']} is not {SCHEMA}")
        return {name: _histogram(**entry) for name, entry in data["sites"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it, or calibrate again") from error


def _entry(seen: Histogram) -> JsonObject:
    index = np.flatnonzero(seen.counts)
    first, last = int(index[0]), int(index[-1])
    return {
        "minimum": seen.minimum,
        "maximum": seen.maximum,
        "exponent": seen.exponent,  # of the width of a bin, 2^exponent
        "first": first - HALF,  # bin of the first count, in widths from 0
        "counts": seen.counts[first : last + 1].tolist(),
    }


def _histogram(minimum: float, maximum: float, exponent: int, first: int, counts: list[int]) -> Histogram:
    low, numbers = first + HALF, np.array(counts, np.int64)
    if not (low >= 0 and low + len(numbers) <= 2 * HALF and numbers.ndim == 1 and numbers.min() >= 0):
        raise ValueError("counts outside the histogram")
    if not (minimum <= maximum and abs(exponent) < 200 and np.isfinite([minimum, maximum]).all()):
        raise ValueError("values that are not a range")
    every = np.zeros(2 * HALF, np.int64)
    every[low : low + len(numbers)] = numbers
    return Histogram(every, int(exponent), minimum, maximum)
