"""Pages of a mapped file are given back, and nothing else is."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stablequant.engine import pages

linux = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux only")


@pytest.fixture
def mapped(tmp_path):
    save_file({"codes": torch.arange(200_000, dtype=torch.int32)}, tmp_path / "a.safetensors")
    return load_file(tmp_path / "a.safetensors")["codes"]


def resident_kib(tensor):
    """Kilobytes of the mapping that holds a tensor which are in memory."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            low, high = (int(place, 16) for place in line.split()[0].split("-"))
            inside = low <= tensor.data_ptr() < high
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1])
    return None


@linux
def test_pages_of_a_file_go_and_come_back(mapped):
    total = int(mapped.sum())
    held = resident_kib(mapped)
    assert pages.release(mapped)
    assert resident_kib(mapped) < held / 4
    assert int(mapped.sum()) == total


@linux
def test_what_was_written_to_stays(mapped):
    mapped[5] = 7
    assert not pages.release(mapped)
    assert int(mapped[5]) == 7


def test_memory_of_our_own_stays():
    own = torch.arange(200_000)
    assert not pages.release(own)
    assert torch.equal(own, torch.arange(200_000))
    assert not pages.release(torch.ones(3))
    with torch.inference_mode():
        assert not pages.release(torch.ones(200_000))


def test_elsewhere_than_on_linux_nothing_happens(mapped, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "MAPS", tmp_path / "nothing")
    assert not pages.release(mapped)


FAULTS = """
import resource, sys, torch
from stablequant.engine import pages
if sys.argv[1] == "keep":
    pages.keep()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2 << 20, dtype=torch.uint8) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(3)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that returns pages")
def test_kept_memory_is_not_faulted_in_again():
    counts = [
        int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("return", "keep")
    ]
    assert counts[1] < counts[0] / 4  # not none: the system may take pages back on its own
