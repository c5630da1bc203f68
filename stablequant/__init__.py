"""stablequant: speech foundation models in int8 or fewer bits, on integer kernels, without losing words.

Importing it registers the checkpoint format with transformers, after which `AutoModelForCTC.from_pretrained` reads a
folder that `sfm-quant calibrate` wrote.
"""

from importlib.metadata import version

__version__ = version("stablequant")

from . import checkpoint as _checkpoint  # noqa: F401  (registers the format)
from .errors import InputError

__all__ = ["InputError", "__version__"]
