"""The plan on integer kernels: modules that hold codes and run them on oneDNN's int8 operators through torch.

`modules` is the seam: one integer module for each site, with its state (what a checkpoint stores) and its own forward,
so that a model of them runs as it is. `extractor` is the first structure that is run fused on top of that state.
"""

from .convert import convert, skeleton
from .extractor import fuse

__all__ = ["convert", "fuse", "skeleton"]
