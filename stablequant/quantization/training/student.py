"""The model that is trained: a copy of the float model whose sites compute as a plan says, with gradients."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ...models import checkpoint
from ...models.recognizer import Recognizer
from ..numerics.weight_grid import QTensor
from ..plan.choice import InputChoice, Quantized
from .quantizers.activation import TrainedInput
from .quantizers.mixture import MixedWeight, Widths
from .quantizers.weight import TrainedWeight
from .settings import TuneSettings


@dataclass(frozen=True)
class TrainedSite:
    """A site of the student."""

    choice: Quantized
    weight: TrainedWeight | MixedWeight
    input: TrainedInput


class Student:
    """A trained copy of a float model, the teacher; `choices`, `weights` and `vectors` are where training starts.

    Trained are the weights and grids of quantized sites, the scales of their inputs, and vectors: biases and norms,
    which are the teacher's where they are not passed.
    """

    def __init__(
        self,
        teacher: Recognizer,
        choices: Mapping[str, Quantized],
        weights: Mapping[str, QTensor | Widths],
        vectors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.teacher = teacher
        self.recognizer = replace(teacher, model=copy.deepcopy(teacher.model))
        self.recognizer.model.requires_grad_(False)
        self.inputs: dict[str, TrainedInput] = {}  # by the key of the tensor that is read
        self._read_by = {site.name: site.input_key for site in teacher.family.sites(teacher.model)}
        self.sites = {name: self._site(name, choice, weights[name]) for name, choice in choices.items()}
        self.vectors = {
            name: each.requires_grad_() for name, each in self.recognizer.model.named_parameters() if each.ndim == 1
        }
        with torch.no_grad():
            for name in self.vectors.keys() & vectors.keys():
                self.vectors[name].copy_(vectors[name])

    def _site(self, name: str, choice: Quantized, start: QTensor | Widths) -> TrainedSite:
        if choice.input is None:
            raise ValueError(f"{name}: a site with inputs in float cannot be stored")
        module = self.recognizer.model.get_submodule(name)
        weight: nn.Parameter = module.weight.requires_grad_()
        made = TrainedWeight(weight, start) if isinstance(start, QTensor) else MixedWeight(weight, start)
        site = TrainedSite(choice, made, self._input(name, choice.input))
        site.weight.place()
        module.register_forward_pre_hook(lambda _module, inputs: (site.input(inputs[0]), *inputs[1:]))
        return site

    def _input(self, name: str, choice: InputChoice) -> TrainedInput:
        """Sites that read one tensor with one range keep one range: their products run together."""
        found = self.inputs.setdefault(self._read_by[name], TrainedInput(choice))
        return found if found.choice == choice else self.inputs.setdefault(name, TrainedInput(choice))

    def optimizer(self, settings: TuneSettings, rate: float, layer: str | None = None) -> torch.optim.AdamW:
        """For everything, or for one layer; `rate` is that of master weights. The rates are those at full height."""
        sites = [site for name, site in self.sites.items() if layer is None or _within(name, layer)]
        vectors = [each for name, each in self.vectors.items() if layer is None or _within(name, layer)]
        groups = [
            {"params": [site.weight.master.steps for site in sites], "lr": rate},
            {"params": [each for site in sites for each in site.weight.grids], "lr": settings.step_rate},
            {
                "params": list({id(site.input): site.input.factor for site in sites}.values()),
                "lr": settings.range_rate,
            },
            {"params": vectors, "lr": settings.bias_rate},
        ]
        kept = [{**group, "full": group["lr"]} for group in groups if group["params"]]
        return torch.optim.AdamW(kept, betas=settings.momentum, weight_decay=0.0)

    def step(self, optimizer: torch.optim.AdamW, factor: float, layer: str | None = None, parts: float = 1.0) -> bool:
        """One step by the gradients of backward passes, divided by `parts`, with a factor on the rates.

        Returns False if a gradient is not finite; then nothing is changed.
        """
        for weight in self._weights(layer):
            weight.collect()
        every = [each for group in optimizer.param_groups for each in group["params"]]
        gradients = [each.grad for each in every if each.grad is not None]
        finite = bool(get_total_norm(gradients).isfinite())
        if finite:
            torch._foreach_div_(gradients, parts)
            for group in optimizer.param_groups:
                group["lr"] = group["full"] * factor
            optimizer.step()
        optimizer.zero_grad()
        self.place(layer)
        return finite

    def place(self, layer: str | None = None) -> None:
        """Write the quantized weights into the model, and forget their gradients."""
        for weight in self._weights(layer):
            weight.place()

    def _weights(self, layer: str | None) -> Iterator[TrainedWeight | MixedWeight]:
        return (site.weight for name, site in self.sites.items() if layer is None or _within(name, layer))

    def quantized(self) -> tuple[dict[str, Quantized], dict[str, QTensor]]:
        """Choices and weights as they are now; those of several widths have none."""
        single = {name: site.weight for name, site in self.sites.items() if isinstance(site.weight, TrainedWeight)}
        choices = {name: replace(self.sites[name].choice, input=self.sites[name].input.chosen()) for name in single}
        return choices, {name: weight.quantized() for name, weight in single.items()}

    def trained(self) -> Recognizer:
        """The teacher with the student's biases and norms: what is written, beside the quantized sites."""
        model = checkpoint.shallow_copy(self.teacher.model)
        for name, value in self.vectors.items():
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, nn.Parameter(value.detach().clone(), requires_grad=False))
        return replace(self.teacher, model=model)

    def state(self, layer: str | None = None) -> Iterator[tuple[str, Tensor]]:
        """Everything that training changes, by name."""
        for name, site in self.sites.items():
            if layer is None or _within(name, layer):
                yield from ((f"{name}.weight.{each}", tensor) for each, tensor in site.weight.named_parameters())
        for key, each in self.inputs.items():
            if layer is None or _within(key, layer):
                yield f"{key}.input.factor", each.factor
        yield from ((name, each) for name, each in self.vectors.items() if layer is None or _within(name, layer))

    def snapshot(self, layer: str | None = None) -> dict[str, Tensor]:
        """A copy of the state."""
        return {name: tensor.detach().clone() for name, tensor in self.state(layer)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], layer: str | None = None) -> None:
        """Go back to a snapshot."""
        for name, tensor in self.state(layer):
            tensor.copy_(state[name])
        self.place(layer)

    def layers(self, names: Collection[str]) -> list[str]:
        """Those of some layers that compute a site with few bits themselves, so that they can be trained alone."""
        coarse = [name for name, site in self.sites.items() if site.choice.weight.format.coarse]
        return [layer for layer in names if any(_within(name, layer) for name in coarse)]


def _within(name: str, layer: str) -> bool:
    """Whether a parameter or module lies in a layer, or is it."""
    return name == layer or name.startswith(layer + ".")
