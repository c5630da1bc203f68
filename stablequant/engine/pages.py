"""Memory that a file backs and that is not needed any more."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from torch import Tensor

MAPS = Path("/proc/self/maps")
DONT_NEED = 4  # MADV_DONTNEED of Linux


def release(tensor: Tensor) -> bool:
    """Give the memory of a tensor that is mapped from a file back to the system; True if there was some to give.

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
