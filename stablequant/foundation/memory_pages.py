"""Memory pages: return those that are no longer needed to the system, and keep others between calls."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import torch
from torch import Tensor

# glibc takes blocks from 128 kB to 32 MB as new pages from the system and returns them when they are freed, until it
# has seen a large one freed: it then keeps blocks of up to that size, and twice as much free memory, for next time.
LARGEST_KEPT = (32 << 20) - (64 << 10)  # bytes, with room for malloc's own
MAPS = Path("/proc/self/maps")
DONT_NEED = 4  # MADV_DONTNEED of Linux


def drop_mapped(tensor: Tensor) -> bool:
    """Return the memory of a tensor that is mapped from a file to the system; True if there was some to return.

    transformers maps weights instead of reading them, so what was read stays resident until the model is gone. A page
    of a private mapping that was never written to is only a copy of the file: dropped, it is read again when asked
    for. Anything else (not Linux, memory of our own, a tensor that was written to) is left alone.
    """
    if not MAPS.exists() or tensor.is_inference() or tensor._version or not tensor.is_contiguous():
        return False
    start, size = tensor.data_ptr(), tensor.nbytes
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages of this tensor alone
    length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length <= 0 or not _is_mapped_privately(start, size):
        return False
    madvise = ctypes.CDLL(None).madvise
    return bool(madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), DONT_NEED) == 0)


def _is_mapped_privately(start: int, size: int) -> bool:
    for line in MAPS.read_text().splitlines():
        span, rights, _, _, inode = line.split()[:5]
        low, high = (int(place, 16) for place in span.split("-"))
        if low <= start < high:
            return start + size <= high and rights.endswith("p") and inode != "0"
    return False


def keep_freed_blocks() -> None:
    """Let malloc keep what the engine frees for the next call; otherwise page faults can take half of the time.

    It costs nothing: the pages of the block are never touched.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)


def return_freed_memory() -> None:
    """Return freed memory to the system where malloc can; small blocks in between make it keep most of it."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if give_back is not None:
        give_back(ctypes.c_size_t(0))
