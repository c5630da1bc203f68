"""The peak resident memory of a model that transcribes one utterance, measured in a process of its own.

`resource.getrusage` is no use for that on Linux: a child starts with the peak of the process it was forked from (the
kernel carries ru_maxrss over exec), here one that holds two models. VmHWM belongs to the address space, which is new.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss_bytes(model: str, seconds: float, threads: int, target_lang: str | None = None) -> int | None:
    """Peak bytes of a new process that loads `model` and transcribes `seconds` of audio; None if it fails."""
    language = () if target_lang is None else (target_lang,)
    command = [sys.executable, "-m", f"{__package__}.peak_memory_child", model, str(seconds), str(threads), *language]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    words = child.stdout.split()
    return int(words[-1]) if child.returncode == 0 and words else None


def own_peak_bytes() -> int:
    """The peak resident set of this process."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
