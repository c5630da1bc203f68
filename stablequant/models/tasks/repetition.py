"""Text that repeats itself, as models that write word after word sometimes do when they have lost the speech.

The test is the one by which Whisper decodes a window of 30 s again: text that zlib makes more than 2.4 times smaller
is a loop (`compression_ratio_threshold` in whisper/transcribe.py of openai/whisper, the ratio in whisper/utils.py).
Several kB of plain text pass that ratio too, so longer text than is spoken in 30 s is tested in parts.
"""

from __future__ import annotations

import itertools
import zlib

THRESHOLD = 2.4  # of openai/whisper
WINDOW = 500  # bytes, about what is said in 30 s


def compression_ratio(text: str) -> float:
    """Bytes of the text in UTF-8 over those that zlib needs; of a long text, the highest among its equal parts."""
    content = text.encode(errors="surrogatepass")
    parts = max(1, -(-len(content) // WINDOW))
    ends = [len(content) * number // parts for number in range(parts + 1)]
    return max(_ratio(content[start:end]) for start, end in itertools.pairwise(ends))


def loops(text: str) -> bool:
    """Whether a text repeats itself."""
    return compression_ratio(text) > THRESHOLD


def _ratio(content: bytes) -> float:
    return len(content) / len(zlib.compress(content))
