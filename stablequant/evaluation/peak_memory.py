"""The peak resident memory of a model that answers one utterance, measured in a process of its own.

`resource.getrusage` is no use for that on Linux: a child starts with the peak of the process it was forked from (the
kernel carries ru_maxrss over exec), here one that holds two models. VmHWM belongs to the address space, which is new.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss_bytes(model: str, seconds: float, threads: int) -> int | None:
    """Bytes that a new process holds at most to load `model` and transcribe `seconds` of audio; None when it fails."""
    command = [sys.executable, "-m", __name__, model, str(seconds), str(threads)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(child.stdout.split()[-1]) if child.returncode == 0 else None


def own_peak_bytes() -> int:
    """The peak resident set of this process."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _main(model: str, seconds: str, threads: str) -> None:
    import numpy as np
    import torch

    from ..models import recognizers

    torch.set_num_threads(int(threads))
    recognizer = recognizers.load(model)
    samples = round(float(seconds) * recognizer.sampling_rate)
    recognizer.transcribe(0.1 * np.random.default_rng(0).standard_normal(samples, dtype=np.float32))
    print(own_peak_bytes())


if __name__ == "__main__":
    _main(*sys.argv[1:])
