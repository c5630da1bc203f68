import pytest
import torch

from stablequant.engines.onednn import kernels, stopwatch
from stablequant.models.checkpoint import read


def test_only_the_outermost_part_counts(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(now)))
    watch = stopwatch.Stopwatch()
    inner = watch.around("inner", lambda: None)
    watch.around("outer", lambda: inner())()
    inner()
    assert watch.seconds == {"outer": 1.0, "inner": 1.0}


def test_the_engine_is_as_it_was_afterwards():
    plain = kernels.linear
    with stopwatch.watched():
        assert kernels.linear is not plain
    assert kernels.linear is plain
    with pytest.raises(TypeError):
        stopwatch.time_split(None, None)
    assert kernels.linear is plain


def test_every_part_of_a_quantized_model_takes_time(calibrated):
    recognizer = read.load(str(calibrated[0]))
    found = stopwatch.time_split(recognizer.model, torch.randn(1, 8000), rounds=1)
    assert set(found) == {part for part, _, _ in stopwatch.PARTS} | {"rest"}
    assert all(milliseconds > 0 for milliseconds in found.values())
