"""A new range method or data layout is one file: a trial one, in a folder of the test, is found by every command."""

import json
import os
import subprocess
import sys

import pytest

from stablequant.foundation.options import CalibrateOptions
from stablequant.workflows.calibrate import calibrate

RANGE = '''
"""Half of what min-max ranges cover."""
from stablequant.quantization.ranges import max as whole

def activations(histogram, grid):
    return tuple(end / 2 for end in whole.activations(histogram, grid))

def weights(weight, grid):
    return whole.weights(weight, grid)
'''
LAYOUT = '''
"""A file of paths, one a line, with the words in the name."""
from stablequant.speech.layouts._entries import Utterance

TITLE, RANK = "a list of paths (.list)", 0

def detect(path):
    return path.suffix == ".list"

def read(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        file = path.parent / line
        text, source = file.stem.replace("_", " "), f"{path}:{number}"
        yield Utterance(line, file, text, None, offset=0.0, duration=None, source=source)
'''
# The folder is put on the search path of the package, as if the file lay in it.
RUN = """
import importlib, sys
_, package, folder, *arguments = sys.argv
sys.argv[:] = ["sfm-quant", *arguments]
importlib.import_module(package).__path__.append(folder)
from stablequant.cli.main import run
run()
"""


@pytest.fixture
def command(tmp_path):
    def run(package, source, *arguments):
        (tmp_path / "plugins").mkdir(exist_ok=True)
        (tmp_path / "plugins" / "trial.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "-c", RUN, package, tmp_path / "plugins", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env=os.environ | {"COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_range_method(command, float_folder, speech, tmp_path):
    package = "stablequant.quantization.ranges"
    assert "trial" in command(package, RANGE, "calibrate", "--help")
    out = ("--data", speech, "--method")
    command(package, RANGE, "calibrate", float_folder, *out, "trial", "--out", tmp_path / "trial")
    calibrate(CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "max"), method="max"))
    half, whole = (json.loads((tmp_path / name / "plan.json").read_text())["sites"] for name in ("trial", "max"))
    quantized = [name for name in whole if "low" in whole[name]]
    assert quantized
    for name in quantized:
        assert half[name]["method"] == "trial"
        assert half[name]["high"] == pytest.approx(whole[name]["high"] / 2, rel=1e-3)


def test_a_layout(command, speech, tmp_path):
    (tmp_path / "A_B.wav").write_bytes((speech / "0.wav").read_bytes())
    (tmp_path / "all.list").write_text("A_B.wav\n")
    found = command("stablequant.speech.layouts", LAYOUT, "data", tmp_path / "all.list")
    assert "trial: a list of paths (.list)" in found
    assert "1, 1 with a transcript" in found
