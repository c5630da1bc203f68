"""Pages of a mapped file are given back, and nothing else is."""

import ctypes
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stablequant.foundation import memory_pages

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
    assert memory_pages.drop_mapped(mapped)
    assert resident_kib(mapped) < held / 4
    assert int(mapped.sum()) == total


@linux
def test_what_was_written_to_stays(mapped):
    mapped[5] = 7
    assert not memory_pages.drop_mapped(mapped)
    assert int(mapped[5]) == 7


def test_memory_of_our_own_stays():
    own = torch.arange(200_000)
    assert not memory_pages.drop_mapped(own)
    assert torch.equal(own, torch.arange(200_000))
    assert not memory_pages.drop_mapped(torch.ones(3))
    with torch.inference_mode():
        assert not memory_pages.drop_mapped(torch.ones(200_000))


def test_elsewhere_than_on_linux_nothing_happens(mapped, monkeypatch, tmp_path):
    monkeypatch.setattr(memory_pages, "MAPS", tmp_path / "nothing")
    assert not memory_pages.drop_mapped(mapped)


KEPT = """
import ctypes, resource, sys, torch
from stablequant.foundation import memory_pages
class Mallinfo(ctypes.Structure):  # mallinfo2 of glibc 2.33
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks a b c d e f".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
if sys.argv[1] == "keep":
    memory_pages.keep_freed_blocks()
before = libc.mallinfo2().hblks
block = torch.empty(30 << 20, dtype=torch.uint8)
mapped = libc.mallinfo2().hblks - before
del block
def touch():
    blocks = [torch.ones(2 << 20, dtype=torch.uint8) for _ in range(8)]
for _ in range(2):
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(mapped, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that returns pages")
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="what malloc maps is told since glibc 2.33")
def test_kept_memory_is_not_faulted_in_again():
    def mapped_and_faults(way):
        ran = subprocess.run([sys.executable, "-c", KEPT, way], capture_output=True, text=True, check=True)
        return [int(word) for word in ran.stdout.split()]

    assert mapped_and_faults("return")[0] == 1  # a large block is new pages of the system
    mapped, faults = mapped_and_faults("keep")
    assert mapped == 0  # it comes from what malloc has kept
    pages_touched = 10 * (16 << 20) / mmap.PAGESIZE
    assert faults < pages_touched / 4  # not none: the system may take pages back on its own
