"""Whether a checkpoint contains everything that inference reads.

Checkpoints on the hub lack parameters that only training reads: facebook/wav2vec2-base-960h has no mask embedding,
others have no quantizer. Which ones these are differs by family and by the year of the file, so there is no list here:
one forward pass is watched, operator by operator, and a parameter that no operator takes is one that inference never
reads. It is set to zero: transformers initializes it at random, but the same file must always load as the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Reads(TorchDispatchMode):
    """Records which of some tensors the operators inside take, directly or as views."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items()}
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                self.found.update(filter(None, [self.names.get(each.untyped_storage().data_ptr())]))
        return func(*args, **(kwargs or {}))


def read_by_inference(model: nn.Module, names: Iterable[str], forward: Callable[[], object]) -> set[str]:
    """Those of the named parameters and buffers that a forward pass of the model reads; it is in eval mode."""
    state = model.state_dict(keep_vars=True)
    with torch.no_grad(), _Reads({name: state[name] for name in names if state[name].numel()}) as reads:
        forward()
    return reads.found


def zero_unread(model: nn.Module, missing: Collection[str], forward: Callable[[], object]) -> list[str]:
    """The missing parameters that inference reads, sorted; the other missing ones become zero."""
    needed = read_by_inference(model, missing, forward) if missing else set()
    state = model.state_dict()
    for name in set(missing) - needed:
        state[name].zero_()
    return sorted(needed)
