"""Hours of audio in bounded memory: STABLEQUANT_HOURS=10 streams ten through calibrate and eval, and takes long."""

import json
import os
import subprocess
import sys

import pytest
import soundfile
import tiny

HOURS = float(os.environ.get("STABLEQUANT_HOURS", "0"))
SEGMENT = 20.0  # seconds of each utterance; all are cut from one file of ten minutes
MINUTES = 10
CODE = """
import sys
from stablequant.evaluation import peak_memory as memory
from stablequant.foundation.options import CalibrateOptions, EvaluateOptions
from stablequant.workflows import calibrate, evaluate
model, data, out = sys.argv[1:]
calibrate.calibrate(CalibrateOptions(model, data, out, method="max", max_samples=10**6))
print(memory.own_peak_bytes())
evaluate.evaluate(EvaluateOptions(out, data, baseline=model))
print(memory.own_peak_bytes())
"""


def peaks(model, folder, hours):
    """Peak bytes of a process after calibrate, and after eval, on that many hours."""
    offsets = [SEGMENT * (number % (60 * MINUTES / SEGMENT)) for number in range(round(3600 * hours / SEGMENT))]
    rows = ({"audio_filepath": "noise.wav", "offset": o, "duration": SEGMENT, "text": "A"} for o in offsets)
    (folder / f"{hours}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", CODE, str(model), str(folder / f"{hours}.jsonl"), str(folder / f"q{hours}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(not HOURS, reason="takes long: set STABLEQUANT_HOURS=10")
@pytest.mark.timeout(0)
def test_memory_does_not_grow_with_the_hours(float_folder, tmp_path):
    soundfile.write(tmp_path / "noise.wav", tiny.wave(0, 60 * MINUTES * tiny.RATE), tiny.RATE)
    few, many = peaks(float_folder, tmp_path, HOURS / 10), peaks(float_folder, tmp_path, HOURS)
    print(f"{HOURS / 10:g} h: {few}, {HOURS:g} h: {many} bytes at most, after calibrate and after eval")
    assert all(b < a + 2**26 for a, b in zip(few, many, strict=True))
