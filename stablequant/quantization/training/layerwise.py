"""Stage 1: layer after layer learns the float model's outputs, from the inputs that the layers before it now give.

(BRECQ, Li et al. 2021, arXiv 2102.05426; EfficientQAT, Chen et al. 2024, arXiv 2407.11062, section 3.2.) A step costs
one layer instead of a model, and needs no transcript. The loss is the squared error of each channel by its variance:
a few channels of a residual stream are a hundred times larger than the others. Every fifth recording is not trained
on; a layer keeps the state that does best on those, which may be the one it began with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..observation.layer_cache import LayerCache
from ..plan.site import Site, layers_of
from .distillation_data import Lessons
from .settings import TuneSettings, fast_products
from .student import Student

CHECK_EVERY = 5  # recordings
CHECKS = 5  # in the training of a layer
FLOOR = 0.01  # of the mean variance: the least that a channel counts for


@dataclass(frozen=True)
class Example:
    """One call of a layer by one recording, and the output that the float model has there."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wanted: Tensor


class _Reached(Exception):  # noqa: N818 (not an error: it ends a forward pass early)
    pass


@dataclass
class LayerTraining:
    """The layers of a student, which are trained in turn; outputs of finished layers are kept in `folder`."""

    student: Student
    lessons: Lessons
    settings: TuneSettings
    folder: Path

    def __post_init__(self) -> None:
        teacher = self.student.teacher
        self.sites = teacher.family.sites(teacher.model)
        every = layers_of(self.sites)
        models = self.lessons.passages.recognizer.model, self.student.recognizer.model
        self.caches = [LayerCache(model, every, self.folder / name) for model, name in zip(models, "fs", strict=True)]
        for cache in self.caches:
            cache.folder.mkdir(exist_ok=True)
        self.layers = self.student.layers(every)

    def train(self, layer: str, share: Callable[[int], float], bar: Any) -> dict[str, float | None]:
        """Train one layer until `share`, of its training that is done after so many steps, reaches 1.

        The layers before it are finished. Returns its error before and after; None for one that is not finite.
        """
        examples = self._examples(layer)
        held_out, seen = examples[::CHECK_EVERY], [e for n, e in enumerate(examples) if n % CHECK_EVERY] or examples
        module = self.student.recognizer.model.get_submodule(layer)
        weights = _by_variance([each.wanted for each in examples], _channels(self.sites, layer, examples[0].wanted))
        optimizer = self.student.optimizer(self.settings, self.settings.layer_rate, layer)
        before = best = _mean_error(module, held_out, weights)
        kept, step, finite = self.student.snapshot(layer), 0, math.isfinite(before)
        while finite and (done := share(step)) < 1:
            batch = _some(seen, step, self.settings.layer_batch)
            for each in batch:
                with fast_products():
                    error = _error(module, each, weights)
                (error / len(batch)).backward()
            finite = self.student.step(optimizer, self.settings.factor(done), layer)
            step += 1
            bar.update()
            if int(done * CHECKS) < int(min(1.0, share(step)) * CHECKS):
                found = _mean_error(module, held_out, weights)
                if found < best:
                    best, kept = found, self.student.snapshot(layer)
        self.student.load(kept, layer)
        return {"before": finite_or_none(before), "after": finite_or_none(best), "steps": step}

    @torch.no_grad()
    def _examples(self, layer: str) -> list[Example]:
        """As many as memory may hold, and two at least."""
        found: list[Example] = []
        chosen = self.lessons.batch(0, min(self.settings.layer_recordings, len(self.lessons.recordings)))
        left = self.settings.layer_bytes
        for number, recording in enumerate(chosen):
            if left < 0 and len(found) > 1:
                break
            passage = self.lessons.passage(recording)
            calls = []
            for cache, recognizer in zip(self.caches, (self.student.teacher, self.student.recognizer), strict=True):
                run = lambda of=recognizer, heard=passage: of.task.logits(of.model, heard.inputs, heard.forced)  # noqa: E731
                calls.append(
                    _call(cache, number, passage.samples, layer, run, output=recognizer is self.student.teacher)
                )
            (wanted,), (args, kwargs) = calls
            found.append(Example(args, kwargs, wanted))
            left -= sum(each.nbytes for each in (*args, *kwargs.values(), wanted) if isinstance(each, Tensor))
        return found


def finite_or_none(number: float) -> float | None:
    """A number as JSON can have it."""
    return number if math.isfinite(number) else None


@torch.no_grad()
def _mean_error(module: nn.Module, examples: Sequence[Example], weights: Tensor) -> float:
    return sum(float(_error(module, each, weights)) for each in examples) / len(examples)


def _call(
    cache: LayerCache, number: int, samples: int, layer: str, run: Callable[[], Any], *, output: bool
) -> tuple[Any, ...]:
    """What a recording gives a layer, (args, kwargs), or what the layer makes of it, (output,)."""
    found: list[tuple[Any, ...]] = []

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append((args, kwargs))
        raise _Reached

    def after(_module: nn.Module, _args: Any, answer: Any) -> None:
        found.append((_first(answer),))
        raise _Reached

    module = cache.model.get_submodule(layer)
    if output:
        hook = module.register_forward_hook(after)
    else:  # before the hook that quantizes the input, where the layer is a site itself
        hook = module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    try:
        with suppress(_Reached):
            cache.run(number, samples, layer, run)
    finally:
        hook.remove()
    return found[0]


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _error(module: nn.Module, example: Example, weights: Tensor) -> Tensor:
    """Squared error of the output, by the variance of each channel."""
    difference = _first(module(*example.args, **example.kwargs)).float() - example.wanted
    return (difference.square() * weights).mean()


def _channels(sites: Sequence[Site], layer: str, output: Tensor) -> int:
    """The dimension of the channels of an output (1, T, C), or (1, C, T) of a convolution."""
    last = [site for site in sites if site.layer == layer][-1]
    return 2 if output.ndim == 3 and output.shape[2] == last.out_channels else 1


def _by_variance(outputs: Sequence[Tensor], dim: int) -> Tensor:
    """1 / variance of each channel, which broadcasts over outputs."""
    others = [n for n in range(outputs[0].ndim) if n != dim]
    count = sum(each.numel() // each.shape[dim] for each in outputs)
    mean = sum(each.sum(others, keepdim=True) for each in outputs) / count
    variance: Tensor = sum((each - mean).square().sum(others, keepdim=True) for each in outputs) / count  # type: ignore[assignment]
    return 1 / (variance + FLOOR * variance.mean()).clamp_min(1e-30)


def _some(examples: Sequence[Example], step: int, size: int) -> list[Example]:
    return [examples[(step * size + n) % len(examples)] for n in range(size)]
