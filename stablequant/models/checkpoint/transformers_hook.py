"""Registers the format with transformers, so that `from_pretrained` returns the integer model.

transformers builds the model on the meta device, calls `_process_model_before_weight_loading`, where the float modules
are swapped for empty integer ones, and then fills parameters and buffers by name from the file. A key too many or too
few is only a warning there, so the keys are compared here, before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ...engines import onednn, quantized_site
from ...engines.base import Engine
from ...foundation.errors import InputError
from ...quantization.numerics.weight_grid import WeightFormat
from ...quantization.plan.plan import Plan
from ...quantization.weight_formats.base import parse
from ..families.base import families
from .value_checks import value_problems

ENGINE: Engine = onednn  # runs what is loaded, so plans are made for it
FORMAT_VERSION = 3
TYPES = {
    torch.float32: "F32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


@register_quantization_config("stablequant")
class StableQuantConfig(QuantizationConfigMixin):
    """quantization_config of a quantized folder: the scheme and each integer site's weight format and input bits.

    `sites` is {name: "w8a8"}; for packed weights as "w4g64za8", see quantization/weight_formats/.
    """

    def __init__(
        self,
        scheme: str = "",
        sites: Any = None,
        format_version: int = FORMAT_VERSION,
        checksums: Any = None,  # {file: sha256}; `sfm-quant verify` compares them
        **_: Any,
    ) -> None:
        if format_version != FORMAT_VERSION:
            raise InputError(
                f"the model is in format {format_version}; this version of stablequant reads {FORMAT_VERSION}"
            )
        _formats(sites)  # raises for what cannot be read
        self.quant_method = "stablequant"
        self.format_version = format_version
        self.scheme = scheme
        self.sites = dict(sites)
        self.checksums = checksums

    @classmethod
    def of(cls, plan: Plan) -> StableQuantConfig:
        """The settings that go with a plan."""
        return cls(plan.scheme, {name: choice.stored_as for name, choice in plan.quantized().items()})

    @property
    def formats(self) -> dict[str, tuple[WeightFormat, int]]:
        """How the codes of each site are stored, and the bits of its input."""
        return _formats(self.sites)


@register_quantizer("stablequant")
class StableQuantizer(HfQuantizer):
    """Builds the integer model while transformers loads it.

    A loaded model keeps it as `hf_quantizer`, and so the reasons of what runs slower than it could.
    """

    requires_calibration = True
    reasons: Mapping[str, str] = MappingProxyType({})

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Scales, norms and everything between the integer kernels are float32, whatever dtype was requested."""
        return torch.float32

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **_: Any) -> None:
        families()[model.config.model_type].prepare(model)
        quantized_site.skeleton(model, self.quantization_config.formats)
        untie(model)
        loaded: Any
        for loaded in model.modules():
            loaded._is_hf_initialized = True  # or the family's _init_weights looks for weights that are codes now
        compare_keys(model.state_dict(), [Path(file) for file in checkpoint_files or []])

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        bits = {name: bits for name, (_, bits) in self.quantization_config.formats.items()}
        for problem in value_problems(model.state_dict(), bits):
            raise InputError(f"the file of weights is damaged: {problem}; copy or write the model again")
        for name, module in model.named_modules():
            if isinstance(module, quantized_site.QuantizedSite):
                module.check(name)
        lowered = ENGINE.lower(model)
        self.reasons = lowered.reasons
        quantized_site.keep_as_it_is(lowered.model)
        return lowered.model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """`save_pretrained` writes the codes as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Integer weights have no gradient."""
        return False


def untie(model: Any) -> None:
    """Leave no weight to be tied that a quantized model no longer has: its tables read the codes (state.TableOf)."""
    names = dict(model.named_parameters())
    tied = {target: source for target, source in model.all_tied_weights_keys.items() if target in names}
    model.all_tied_weights_keys = tied
    model._tied_weights_keys = tied


def _formats(sites: object) -> dict[str, tuple[WeightFormat, int]]:
    """{name: (weight format, input bits)} of what config.json says."""
    if not isinstance(sites, Mapping):
        raise InputError(f"quantization_config in config.json has no sites ({sites!r}); calibrate the model again")
    return {name: _format(name, text) for name, text in sites.items()}


def _format(name: str, text: object) -> tuple[WeightFormat, int]:
    weight, _, bits = str(text).rpartition("a")
    if bits not in {"2", "3", "4", "5", "6", "7", "8"}:
        raise InputError(f"quantization_config in config.json has {text!r} for {name}; calibrate the model again")
    return parse(weight), int(bits)


def compare_keys(expected: Mapping[str, torch.Tensor], files: list[Path]) -> None:
    """InputError unless the safetensors files contain exactly the expected keys, each with its type and shape."""
    found: dict[str, tuple[str, list[int]]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
                found |= {key: (each.get_dtype(), list(each.get_shape())) for key, each in slices.items()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: cut short or damaged ({error}); copy or write the model again") from error
    common = expected.keys() & found.keys()
    problems = (
        ("misses", expected.keys() - found.keys()),
        ("has an unexpected", found.keys() - expected.keys()),
        ("has the wrong type for", {k for k in common if TYPES.get(expected[k].dtype) != found[k][0]}),
        ("has the wrong shape for", {k for k in common if list(expected[k].shape) != found[k][1]}),
    )
    for problem, keys in problems:
        if files and keys:
            raise InputError(
                f"{files[0]}: the file {problem} {sorted(keys)[0]!r} ({len(keys)} such keys); write it again"
            )
