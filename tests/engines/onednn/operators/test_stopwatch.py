import pytest
import torch

from stablequant.engines.onednn.operators import stopwatch
from stablequant.models.checkpoint import read

PARTS = {"extractor", "positional", "products", "attention", "quantize", "norms"}


@stopwatch.timed("inner")
def inner():
    return "result"


@stopwatch.timed("outer")
def outer():
    return inner()


def test_only_the_outermost_part_counts(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(now)))
    with stopwatch.watched() as watch:
        assert (outer(), inner()) == ("result", "result")
    assert watch.seconds == {"outer": 1.0, "inner": 1.0}


def test_nothing_is_timed_outside_nor_after_a_failure():
    with pytest.raises(ZeroDivisionError), stopwatch.watched() as watch:
        raise ZeroDivisionError
    assert outer() == "result"
    assert not watch.seconds
    with pytest.raises(TypeError):
        stopwatch.time_split(None)
    assert stopwatch._watching is None


def test_a_part_that_fails_is_counted_and_ends():
    @stopwatch.timed("failing")
    def failing():
        raise ZeroDivisionError

    with stopwatch.watched() as watch:
        with pytest.raises(ZeroDivisionError):
            failing()
        inner()
    assert set(watch.seconds) == {"failing", "inner"}


def test_every_part_of_a_quantized_model_takes_time(calibrated):
    recognizer = read.load(str(calibrated[0]))
    found = stopwatch.time_split(lambda: recognizer.model(torch.randn(1, 8000)), rounds=1)
    assert set(found) == PARTS | {"rest"}
    assert all(milliseconds > 0 for milliseconds in found.values())
