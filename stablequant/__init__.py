"""stablequant: speech foundation models in int8 or fewer bits, on integer kernels, without losing words.

Importing it registers the checkpoint format with transformers, after which `AutoModelForCTC.from_pretrained` reads a
folder that `sfm-quant calibrate` wrote. `calibrate`, `tune`, `evaluate` and `Plan` are imported on first use:

    calibrate(model=, data=, out=, ...) -> dict    fields of CalibrateOptions; the JSON of `calibrate`
    tune(model=, data=, out=, ...) -> dict         fields of TuneOptions; the JSON of `tune`
    evaluate(model=, data=, ...) -> Result         fields of EvaluateOptions
    Plan                                           what plan.json holds, for every site

They raise InputError, a ValueError, for a model, data or option that cannot be used.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .foundation.errors import InputError

# The command line answers --help without waiting for torch; a command registers the format when it loads a model.
if Path(sys.argv[0]).stem != "sfm-quant":
    from .models import checkpoint as _checkpoint  # noqa: F401
else:
    from .foundation import interrupts as _interrupts

    _interrupts.default()

if TYPE_CHECKING:
    __version__: str
    from .api import calibrate, evaluate, tune
    from .quantization.plan.plan import Plan

__all__ = ["InputError", "Plan", "__version__", "calibrate", "evaluate", "tune"]


def __getattr__(name: str) -> Any:
    if name in ("calibrate", "evaluate", "tune"):
        return getattr(import_module(".api", __name__), name)
    if name == "Plan":
        return import_module(".quantization.plan.plan", __name__).Plan
    if name == "__version__":
        return import_module("importlib.metadata").version("stablequant")  # slow to import, and seldom asked for
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
