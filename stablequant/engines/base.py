"""The protocol of an engine: a module of this folder that runs quantized sites in its own way.

An engine receives a model with its quantized sites in place (quantized_site.py), filled by a calibration or from a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from ..quantization.plan.choice import Quantized
from ..quantization.plan.site import Site


@dataclass(frozen=True)
class Lowered:
    """A model that an engine runs, and {part of it: why that runs slower than it could}."""

    model: nn.Module
    reasons: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Two functions; tests/contracts/test_engines.py checks every engine against them."""

    def refuses(self, site: Site, choice: Quantized | None = None) -> str | None:
        """Why the engine cannot run a site as chosen, None where it can; the ends of its range do not matter.

        Without a choice: why it cannot run the site whatever is chosen. Such a site stays in float.
        """

    def lower(self, model: nn.Module) -> Lowered:
        """Make a model with quantized sites run on the engine, in place; a site that it refuses runs as it is."""
