"""The plan on integer kernels: modules that hold codes and run them on oneDNN's int8 operators through torch.

`modules` is the seam: one integer module for each site, with its state (what a checkpoint stores) and its own forward,
so that a model of them runs as it is. `extractor` and `encoder` are the structures that run fused on top of that
state, and `packed` runs several utterances at once.
"""

from torch import nn

from ...foundation import memory_pages
from . import attention, encoder, extractor, kernels
from .batching import batched_logits, can_batch
from .convert import convert, skeleton
from .modules import IntegerModule

__all__ = [
    "IntegerModule",
    "attention",
    "batched_logits",
    "can_batch",
    "convert",
    "fuse",
    "kernels",
    "notices",
    "skeleton",
]


def fuse(model: nn.Module) -> dict[str, str]:
    """Run everything fused whose structure is known, in place; {part: why it runs module by module} of the rest."""
    memory_pages.keep_freed_blocks()
    reason = extractor.fuse(model)
    return encoder.fuse(model) | ({"feature_extractor": reason} if reason is not None else {})


def notices(model: nn.Module, name: str) -> tuple[str, ...]:
    """What a user of an integer model should know about how it runs here, a sentence each; nothing if all is well."""
    slow = [f"{name}: {part} runs module by module, slower: {reason}" for part, reason in fuse(model).items()]
    return (*slow, *([] if kernels.way() == "exact" else [f"{name}: {kernels.NOTICES[kernels.way()]}"]))
