"""stablequant: speech foundation models in int8 or fewer bits, on integer kernels, without losing words.

Importing it registers the checkpoint format with transformers, after which `AutoModelForCTC.from_pretrained` reads a
folder that `sfm-quant calibrate` wrote.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from .errors import InputError

__version__ = version("stablequant")

# The command line answers --help without waiting for torch; a command registers the format when it loads a model.
if Path(sys.argv[0]).stem != "sfm-quant":
    from . import checkpoint as _checkpoint  # noqa: F401

__all__ = ["InputError", "__version__"]
