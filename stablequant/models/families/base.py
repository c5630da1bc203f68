"""The protocol of a family: how its networks are built, and everything that other code asks about them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor, nn

from ...foundation import registry
from ...quantization.plan.site import Site


@dataclass(frozen=True)
class Geometry:
    """How samples become steps (frames) of a model."""

    fewest: int  # samples that give one step
    stride: int  # samples from the start of one step to the start of the next
    window: int | None = None  # samples that the network takes, whatever the recording's length; None: any number
    shape: tuple[int, ...] | None = None  # of its inputs, where that is fixed


class Family(Protocol):
    """The functions of a file in this folder, for models of its types."""

    MODEL_TYPES: tuple[str, ...]  # `model_type` in config.json
    INPUT: str  # what its feature extractor returns
    TASK: str  # of a folder whose config.json names no class

    def prepare(self, model: nn.Module) -> nn.Module:
        """Make every weight visible at its module, in place, without changing a result."""

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        """Every module with a weight matrix, in the order of the forward pass, with a reason if it stays in float."""

    def inputs(self, extractor: Any, waveform: np.ndarray, sampling_rate: int) -> dict[str, Tensor]:
        """The arguments of a forward pass for a mono float32 waveform (samples,): {INPUT: (1, ...)}."""

    def geometry(self, config: Any) -> Geometry:
        """How samples become steps; ValueError with a sentence if the sizes in config.json make no sense."""


def families() -> dict[str, Family]:
    """The family of each model type."""
    modules: list[ModuleType] = [registry.get("families", name) for name in registry.names("families")]
    return {kind: cast(Family, module) for module in modules for kind in module.MODEL_TYPES}
