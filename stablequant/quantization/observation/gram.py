"""Gram matrices of the inputs of sites: sums of x x^T over the input windows x, for error-compensating rounding.

A window is what a row of the canonical weight is multiplied with: for a Linear the input vector, for a convolution its
in-channels x kernel. Recordings alternate between two halves, so that a choice on one can be checked on the other.

Of a convolution with many windows only every few are used, because neighbours are nearly the same. The positional
convolution is grouped and its windows are long (48 channels x 128 frames), so the matrices of all groups would take
gigabytes; they follow from the autocorrelation of the channels, which is small, for windows that slide over the whole
recording and past both its ends: there G[(c, k), (d, l)] depends on l - k only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..numerics.reproducible import Reproducible
from ..plan.site import Site

WINDOWS = 2048  # of a convolution that one recording adds
LONGEST = 1536  # columns of a grouped convolution that are rounded together
HALVES = 2

Matrices = tuple[Tensor, Tensor]
T = TypeVar("T")


@dataclass
class Gram:
    """The sums collected at one site."""

    site: Site
    sums: list[Tensor | None] = field(default_factory=lambda: [None] * HALVES)  # of each half, None: no recordings

    def add(self, x: Tensor, half: int) -> None:
        """Add an input of the site: (1, T, in) of a Linear, (1, channels, T) of a convolution."""
        if self.site.groups > 1:
            products = _autocorrelation(x[0], self.site)
        else:
            rows = _windows(x[0], self.site) if self.site.kind == "conv" else x.reshape(-1, x.shape[-1])
            products = rows.T @ rows
        before = self.sums[half]
        self.sums[half] = products if before is None else before.add_(products)

    def blocks(self, group: int = 0) -> Iterator[tuple[slice, Matrices]]:
        """Columns of the canonical weight of one group of a convolution, and the matrices (n, n) of both halves.

        All columns at once, but for windows longer than LONGEST: those in blocks of channels, as if channels of
        different blocks were uncorrelated.
        """
        first, second = self._halves()
        if self.site.groups == 1:
            yield slice(None), (_canonical(first, self.site), _canonical(second, self.site))
            return
        channels = max(1, min(self.site.in_channels, LONGEST // self.site.kernel))
        for start in range(0, self.site.in_channels, channels):
            c = slice(start, min(start + channels, self.site.in_channels))
            halves = (_toeplitz(half[group, c, c], self.site.kernel) for half in (first, second))
            yield slice(c.start * self.site.kernel, c.stop * self.site.kernel), (next(halves), next(halves))

    def _halves(self) -> Matrices:
        """The sums of both halves; one without recordings is the other one."""
        filled = next(half for half in self.sums if half is not None)
        first, second = (filled if half is None else half for half in self.sums)
        return first, second

    def power(self, group: int = 0) -> Tensor:
        """Second moments (n,) of the columns, up to a factor."""
        return torch.cat([first.diagonal() + second.diagonal() for _, (first, second) in self.blocks(group)])


def collect(
    model: nn.Module, sites: Sequence[Site], forward: Callable[[T], object], recordings: Iterable[T]
) -> dict[str, Gram]:
    """The Gram matrices of sites over recordings; a forward pass ends when the last of the sites has its input."""
    found: dict[str, Gram] = {}
    for number, recording in enumerate(recordings):
        with _observe(model, sites, found, number % HALVES), suppress(_SeenAll), Reproducible():
            forward(recording)
    return {name: gram for name, gram in found.items() if any(half is not None for half in gram.sums)}


class _SeenAll(Exception):  # noqa: N818 (not an error: it ends a forward pass early)
    pass


@contextmanager
def _observe(model: nn.Module, sites: Sequence[Site], found: dict[str, Gram], half: int) -> Iterator[None]:
    """Inside, a forward pass adds the inputs of the sites to `found`; sites that read one input have one matrix."""
    leaders: dict[str, Site] = {}  # the first site of each input
    for site in sites:
        leaders.setdefault(site.input_key, site)
        found.setdefault(
            site.name, Gram(site) if leaders[site.input_key] is site else found[leaders[site.input_key].name]
        )
    waiting = set(leaders)

    def hook(site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[site.name].add(args[0].detach(), half)
            waiting.discard(site.input_key)
            if not waiting:
                raise _SeenAll

        return add

    handles = [model.get_submodule(site.name).register_forward_pre_hook(hook(site)) for site in leaders.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _windows(x: Tensor, site: Site) -> Tensor:
    """At most WINDOWS windows of a recording (channels, T), evenly spread: (windows, kernel * channels)."""
    rows = x.T.contiguous()
    if site.padding:
        rows = nn.functional.pad(rows, (0, 0, site.padding, site.padding))
    count = (len(rows) - site.kernel) // site.stride + 1
    every = -(-count // WINDOWS)
    shape = (-(-count // every), site.kernel * rows.shape[1])
    return rows.as_strided(shape, (every * site.stride * rows.shape[1], 1)).contiguous()


def _canonical(matrix: Tensor, site: Site) -> Tensor:
    """(kernel, channels) order of windows in memory to the (channels, kernel) order of the canonical weight."""
    k, c = site.kernel, site.in_channels
    return matrix.view(k, c, k, c).permute(1, 0, 3, 2).reshape(k * c, k * c)


def _autocorrelation(x: Tensor, site: Site) -> Tensor:
    """R (groups, c, c, 2 kernel - 1) of a recording (channels, T).

    R[., a, b, lag + kernel - 1] is the sum over t of x_a(t) x_b(t + lag).
    """
    frames, lags = x.shape[1], site.kernel - 1
    size = 1 << (frames + lags).bit_length()
    spectrum = torch.fft.rfft(x.view(site.groups, site.in_channels, frames), size)
    found = []
    for group in spectrum:
        correlation = torch.fft.irfft(group.conj()[:, None] * group[None], size)
        found.append(torch.cat([correlation[..., size - lags :], correlation[..., : lags + 1]], -1))
    return torch.stack(found)


def _toeplitz(correlation: Tensor, k: int) -> Tensor:
    """(c, c, 2 k - 1) to the matrix (c * k, c * k) of windows with k frames."""
    c = len(correlation)
    lag = torch.arange(k)[None] - torch.arange(k)[:, None] + k - 1  # l - k
    return correlation[:, :, lag].permute(0, 2, 1, 3).reshape(c * k, c * k)
