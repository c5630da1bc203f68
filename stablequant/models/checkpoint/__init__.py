"""Models on disk: float ones are read, quantized ones written completely or not at all, and read by transformers.

config.json        with quantization_config: {"quant_method": "stablequant", "scheme", "sites": {name: input bits}}
model.safetensors  integer codes and scales, the rest in float32
plan.json, the processor's files, README.md (model card)
evidence/          histograms for the report (histograms.py); loading does not read them
"""

from .transformers_hook import StableQuantConfig, StableQuantizer
from .write import (
    PLAN_FILE,
    check_destination,
    claimed,
    quantized_model,
    shallow_copy,
    tell_replaced,
    weights_hash,
    write,
)

__all__ = [
    "PLAN_FILE",
    "StableQuantConfig",
    "StableQuantizer",
    "check_destination",
    "claimed",
    "quantized_model",
    "shallow_copy",
    "tell_replaced",
    "weights_hash",
    "write",
]
