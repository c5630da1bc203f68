import json
import math

import numpy as np
import pytest
import torch

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import histograms, read
from stablequant.models.source import folder_bytes
from stablequant.quantization.observation.histogram import histogram_of
from stablequant.quantization.plan.plan import read_plan


def of(*values):
    return histogram_of(torch.tensor(values))


def kept(folder, stats):
    histograms.write(folder, stats)
    return histograms.read(folder)


@pytest.mark.parametrize("values", [(0.0,), (-3.5,), (1e-30, 2e-30), (-1.0, 0.25, 700.0), (-3e38, 3e38)])
def test_what_was_written_is_read_again(tmp_path, values):
    seen = of(*values)
    found = kept(tmp_path, {"a site": seen})["a site"]
    assert (found.minimum, found.maximum, found.total) == (seen.minimum, seen.maximum, len(values))
    centres, counts = found.occupied()
    assert counts.sum() == len(values)
    for value in values:
        assert np.abs(centres - value).min() <= found.width / 2
    assert (max(values) - min(values)) / found.width <= histograms.BINS


def test_calibration_keeps_every_site_that_it_has_seen(calibrated):
    found = histograms.read(calibrated[0])
    choices = read_plan(calibrated[0] / "plan.json").quantized()
    assert set(found) == set(choices)
    for name, choice in choices.items():
        read = choice.input
        seen = found[name]
        centres, counts = seen.occupied()
        # Only of the bins that the ends of the range lie in, a coarse form cannot say what is inside.
        at_ends = sum(counts[np.abs(centres - end) <= seen.width / 2].sum() for end in (read.low, read.high))
        difference = abs(seen.share_outside(read.low, read.high) - choice.measured.clipped_share)
        assert difference <= at_ends / seen.total + 1e-8


def test_it_is_small_and_no_part_of_the_model(calibrated, quantized_folder):
    file = calibrated[0] / histograms.FILE
    assert file.stat().st_size < 1000 * len(read_plan(calibrated[0] / "plan.json").sites)
    before = folder_bytes(quantized_folder)
    (quantized_folder / histograms.FILE).unlink()
    (quantized_folder / histograms.FILE).parent.rmdir()
    assert histograms.read(quantized_folder) == {}
    assert folder_bytes(quantized_folder) == before
    assert read.load(str(quantized_folder)).scheme == "w8a8"


@pytest.mark.parametrize(
    "change",
    [
        {"counts": []},
        {"counts": [-1]},
        {"counts": ["many"]},
        {"counts": [[1]]},
        {"counts": [10**30]},
        {"counts": [1] * 20_000},
        {"first": -(10**6)},
        {"first": 0.5},
        {"exponent": 5000},
        {"exponent": "4"},
        {"minimum": math.nan},
        {"minimum": 2.0, "maximum": 1.0},
        {"maximum": None},
        {"color": "red"},
    ],
)
def test_damage_is_told_in_a_sentence(tmp_path, change):
    kept(tmp_path, {"site": of(0.0, 1.0)})
    data = json.loads((tmp_path / histograms.FILE).read_text())
    data["sites"]["site"] |= change
    (tmp_path / histograms.FILE).write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"histograms\.json: damaged .*; remove it, or calibrate again"):
        histograms.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 1}', '{"schema": 2, "sites": {}}', '{"schema": 1, "sites": []}']
)
def test_a_file_of_something_else(tmp_path, text):
    kept(tmp_path, {"site": of(0.0)})
    (tmp_path / histograms.FILE).write_text(text)
    with pytest.raises(InputError, match=r"histograms\.json: damaged"):
        histograms.read(tmp_path)
