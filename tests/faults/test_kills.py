"""`calibrate` killed at random moments: a whole model or none, and `--resume` ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from damage import seeds

from stablequant.models.checkpoint.verify import problems

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FILES = ("plan.json", "model.safetensors", "config.json")


class Commands:
    """The command in real processes, one at a time."""

    def __init__(self, log):
        self.log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads do not survive a fork
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forks.py")],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment},
        )

    def run(self, arguments, kill=None, after=0.0):
        """Exit code; with `kill` that signal is sent `after` seconds."""
        self.server.stdin.write(json.dumps([list(map(str, arguments)), str(self.log), kill, after]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    found = Commands(tmp_path_factory.mktemp("log") / "log.txt")
    yield found
    found.close()


@pytest.fixture(scope="module", params=["w8a8", "w4a8"])
def whole(request, commands, float_folder, speech, tmp_path_factory):
    """(arguments without --out, the model that they give, seconds that it takes)"""
    out = tmp_path_factory.mktemp("whole") / "q"
    arguments = ["calibrate", float_folder, "--data", speech, "--threshold", "-1", "--scheme", request.param]
    began = time.monotonic()
    assert commands.run([*arguments, "--out", out]) == 0, commands.log.read_text()
    return arguments, {name: (out / name).read_bytes() for name in FILES}, time.monotonic() - began


@pytest.mark.parametrize("seed", seeds(3))
def test_killed_at_random_moments(seed, commands, whole, calibrated, tmp_path):
    arguments, expected, seconds = whole
    rng, out = random.Random(seed), tmp_path / "place" / "q"
    out.parent.mkdir()
    older = rng.random() < 0.5
    if older:
        shutil.copytree(calibrated[0], out)
        (out / "README.md").write_text("older")
    code, resume = None, []
    for _ in range(3):
        code = commands.run([*arguments, "--out", out, *resume], SIGNALS[seed % 3], rng.random() * 1.1 * seconds)
        told = commands.log.read_text()
        assert code in (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM), told
        assert "Traceback" not in told
        assert whole_or_none(out, older), sorted(out.parent.rglob("*"))
        if code == 0:
            break
        resume = ["--resume"]
    if code != 0:
        assert commands.run([*arguments, "--out", out, "--resume"]) == 0, commands.log.read_text()
    assert {name: (out / name).read_bytes() for name in FILES} == expected
    assert [path.name for path in out.parent.iterdir()] == ["q"], "nothing is left beside"


def whole_or_none(out, older):
    if out.exists():
        return problems(out) == []
    return not older or any(out.parent.glob(".q.stablequant-*/old"))
