"""Cached outputs of layers, so that no layer computes the same thing twice.

`record` and `reuse` are for one recording, in memory. A `LayerCache` takes many through a model whose layers change
from the front to the back: the outputs of the finished layers are on disk, and each pass starts from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

MOST_KEPT = 128  # bytes for each sample of a recording: an encoder's states, and not those of the first convolutions


@contextmanager
def record(model: nn.Module, layers: Sequence[str], name: Callable[[str], str] = str) -> Iterator[dict[str, object]]:
    """Inside, forward passes leave the output of each layer in the dictionary that is yielded, by its `name`."""
    outputs: dict[str, object] = {}

    def keep(layer: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name(layer), output)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(model.get_submodule(layer).register_forward_hook(keep(layer)).remove)
        yield outputs


@contextmanager
def reuse(model: nn.Module, outputs: Mapping[str, object]) -> Iterator[None]:
    """Inside, the layers in `outputs` return these instead of computing them."""
    with ExitStack() as stack:
        for name, output in outputs.items():
            module = model.get_submodule(name)
            module.forward = lambda *_args, _output=output, **_kwargs: _output
            stack.callback(module.__dict__.pop, "forward")
        yield


class _Form(NamedTuple):
    """The structure of an output: a tensor, or a tuple of tensors and None."""

    single: bool
    shapes: tuple[torch.Size | None, ...]


@dataclass
class LayerCache:
    """A model's layers in forward order, and a folder for their outputs.

    Layers of one list are a chain: each reads nothing but the output of the one before, so the last output is enough.
    An output of more than MOST_KEPT bytes a sample is not kept; the layers up to it run again.
    """

    model: nn.Module
    layers: Sequence[str]
    folder: Path
    ran: Counter[str] = field(default_factory=Counter)  # how often each layer was computed
    _done: Counter[int] = field(default_factory=Counter)  # by recording: the layers whose answers are kept
    _forms: dict[tuple[int, str], _Form] = field(default_factory=dict)  # by recording and chain

    def run(self, number: int, samples: int, layer: str, forward: Callable[[], object]) -> None:
        """Run `forward` of recording `number` from where its last run stopped; it may end when `layer` is reached.

        The layers before `layer` have to be as they will stay, and none before where the last run stopped may change.
        """
        done, stop = self._done[number], self.layers.index(layer)
        chains = dict.fromkeys(_chain(name) for name in self.layers[:done])
        answers = {chain: self._read(number, chain) for chain in chains}
        self.ran.update(self.layers[done:stop])
        with (
            reuse(self.model, {name: answers[_chain(name)] for name in self.layers[:done]}),
            record(self.model, self.layers[done:stop], _chain) as outputs,
        ):
            try:
                forward()
            finally:
                self._keep(number, stop, outputs, MOST_KEPT * samples)

    def _keep(self, number: int, done: int, outputs: Mapping[str, object], most: int) -> None:
        parts = {chain: output if isinstance(output, tuple) else (output,) for chain, output in outputs.items()}
        tensors = [part for output in parts.values() for part in output if part is not None]
        known = all(isinstance(part, Tensor) and part.dtype == torch.float32 for part in tensors)
        if not known or sum(part.nbytes for part in tensors) > most:
            return
        for chain, output in parts.items():
            shapes = tuple(None if part is None else part.shape for part in output)
            self._forms[number, chain] = _Form(not isinstance(outputs[chain], tuple), shapes)
            with self._file(number, chain).open("wb") as file:
                for part in output:
                    file.write(b"" if part is None else part.contiguous().numpy())
        self._done[number] = done

    def _read(self, number: int, chain: str) -> object:
        single, shapes = self._forms[number, chain]
        with self._file(number, chain).open("rb") as file:
            output = tuple(
                None if shape is None else torch.from_numpy(np.fromfile(file, np.float32, shape.numel())).view(shape)
                for shape in shapes
            )
        return output[0] if single else output

    def _file(self, number: int, chain: str) -> Path:
        return self.folder / f"{number}.{chain}"


def _chain(layer: str) -> str:
    """The list that a layer is in, or the layer itself."""
    path, _, index = layer.rpartition(".")
    return path if index.isdigit() else layer
