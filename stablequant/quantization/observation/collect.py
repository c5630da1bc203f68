"""One pass over the recordings that collects histograms of the inputs of every site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn

from ...foundation.errors import InputError
from ..numerics.reproducible import Reproducible
from ..plan.site import Site
from .histogram import Histogram, empty, histogram_of, merge

T = TypeVar("T")


def histograms(
    model: nn.Module,
    sites: tuple[Site, ...],
    forward: Callable[[T], object],
    recordings: Iterable[T],
    stats: dict[str, Histogram] | None = None,
) -> Iterator[dict[str, Histogram]]:
    """Run `forward` on each recording and yield {site: Histogram} after each; the last one is the result.

    `stats` continues an earlier run. A site that no forward pass reaches is absent.
    """
    gathered = dict(stats or {})
    for recording in recordings:
        with observe(model, sites) as seen, Reproducible():
            forward(recording)
        gathered |= {name: merge(gathered.get(name, empty()), found) for name, found in seen.items()}
        yield gathered


@contextmanager
def observe(model: nn.Module, sites: tuple[Site, ...]) -> Iterator[dict[str, Histogram]]:
    """Inside, every forward pass adds the inputs of the sites to the dictionary that is yielded.

    An input that several sites read is counted once.
    """
    seen: dict[str, Histogram] = {}
    last: dict[str, tuple[Tensor, Histogram]] = {}  # by its key, the last input: others may share it

    def hook(site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if site.input_key not in last or inputs[0] is not last[site.input_key][0]:
                last.clear()
                last[site.input_key] = inputs[0], _histogram(inputs[0], site.name)
            _, found = last[site.input_key]
            seen[site.name] = merge(seen[site.name], found) if site.name in seen else found

        return count

    handles = [model.get_submodule(site.name).register_forward_pre_hook(hook(site)) for site in sites]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _histogram(x: Tensor, name: str) -> Histogram:
    try:
        return histogram_of(x)
    except ValueError as error:
        raise InputError(f"the inputs at {name} are {error} for this recording") from error
