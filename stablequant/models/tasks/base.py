"""The protocol of a task: what a network's output means, and how two models are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

from torch import Tensor

from ...foundation import registry

Part = tuple[float, float]  # numerator and denominator of a score on one recording; sums of parts are parts


@dataclass(frozen=True)
class Answer:
    """A model's answer to one recording, to which a changed model is compared."""

    logits: Tensor  # (steps, symbols)
    written: int  # symbols or tokens in it, 1 at least: what differences are counted over
    text: str
    forced: Tensor | None = None  # decoder ids (1, steps) that every other model has to follow; None: no decoder


class Task(Protocol):
    """The functions of a file in this folder. `inputs` are the arguments of a forward pass, of one recording."""

    AUTO_CLASS: str  # of transformers, which loads a model of this task
    HEAD: str  # how the names of its classes end
    UNIT: str  # of `divergence`, in points

    def answer(self, model: Any, tokenizer: Any, inputs: Mapping[str, Tensor]) -> Answer:
        """The model's own answer."""

    def logits(self, model: Any, inputs: Mapping[str, Tensor], answer: Answer) -> Tensor:
        """Logits (steps, symbols) of a changed model for the steps of an answer."""

    def divergence(self, answer: Answer, logits: Tensor) -> Part:
        """How far the logits of a changed model are from an answer; 0 for its own."""

    def text(self, model: Any, tokenizer: Any, inputs: Mapping[str, Tensor]) -> str:
        """The model's text; InputError if its output is not finite."""

    def missing_head(self, parameter: str) -> bool:
        """Whether a parameter belongs to the part that only this task adds to a network."""


def tasks() -> tuple[Task, ...]:
    """All tasks."""
    modules: list[ModuleType] = [registry.get("tasks", name) for name in registry.names("tasks")]
    return tuple(cast(Task, module) for module in modules)


def task_of(architectures: list[str]) -> Task | None:
    """The task of the classes that config.json names, or of a file that names none the first there is; else None."""
    known = tasks()
    return next(
        (each for each in known if not architectures or any(a.endswith(each.HEAD) for a in architectures)), None
    )


def total_variation(reference: Tensor, logits: Tensor) -> float:
    """Sum over steps of the total variation distance between the posteriors of two models, (steps, symbols) each."""
    distance = 0.5 * (reference.softmax(-1) - logits.softmax(-1)).abs().sum(-1).sum()  # short sums: the same anywhere
    return float(distance)
