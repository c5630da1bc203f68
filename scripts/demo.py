"""The whole way on the model and clips that come with the project: calibrate to int8, then measure against float.

    make demo
    python scripts/demo.py --model FOLDER_OR_HUB_ID --calibrate DATA --evaluate DATA

It runs the command line and prints each command first, so what happens here can be typed by hand.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "model.safetensors": "integer codes and scales",
    "plan.json": "what was chosen for every layer, and why",
    "README.md": "model card",
    "calibrate.json": "the account of the calibration",
    "eval.json": "the numbers above, for a machine",
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    folder = options.out / f"{Path(options.model).name}-w8a8"
    calibrated = options.out / "calibrate.json"
    evaluated = options.out / "eval.json"
    options.out.mkdir(parents=True, exist_ok=True)
    run("calibrate", options.model, "--data", options.calibrate, "--out", folder, "--json", calibrated)
    run("eval", folder, "--data", options.evaluate, "--baseline", options.model, "--json", evaluated)
    print("Where things are:")
    for name, what in PARTS.items():
        place = folder / name if (folder / name).is_file() else options.out / name
        print(f"  {shown(place):48s} {what}")
    print(f"Next: sfm-quant inspect {shown(folder)}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default=shown(ROOT / "calibration/model"))
    made.add_argument("--calibrate", default=shown(ROOT / "calibration/clips/calibrate"), metavar="DATA")
    made.add_argument("--evaluate", default=shown(ROOT / "calibration/clips/evaluate"), metavar="DATA")
    made.add_argument("--out", type=Path, default=Path(shown(ROOT / "build/demo")))
    return made


def run(*words: object) -> None:
    """Show a command of sfm-quant and run it; a command that fails ends the demo with its exit code."""
    command = ["sfm-quant", *map(str, words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    done = subprocess.run([Path(sysconfig.get_path("scripts")) / command[0], *command[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be given from here."""
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
