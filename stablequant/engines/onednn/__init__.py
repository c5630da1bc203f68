"""The plan on integer kernels: oneDNN's int8 operators, through torch.

`modules` runs each site by itself, so that a model of these modules runs without the rest; `extractor` and the
encoders run known structures fused, and `batching` runs several utterances at once.
"""

from collections.abc import Mapping

from torch import nn

from ...foundation import memory_pages
from ...quantization.plan.choice import Quantized
from ...quantization.plan.site import Site
from ..base import Lowered
from . import extractor, wav2vec2_encoder, whisper_encoder
from .batching import batched_logits, can_batch
from .decoder import decoder_of, unknown_decoder
from .operators import attention_products, kernels
from .operators.modules import MID_RISE, WEIGHT_ONLY, IntegerModule, unfit_shape, use_kernels

__all__ = [
    "IntegerModule",
    "attention_products",
    "batched_logits",
    "can_batch",
    "decoder_of",
    "kernels",
    "lower",
    "notices",
    "refuses",
    "use_kernels",
]


def refuses(site: Site, choice: Quantized | None = None) -> str | None:
    """Why the kernels do not run a site as chosen, or whatever is chosen; None if they do."""
    if (reason := unfit_shape(site)) or choice is None:
        return reason
    if choice.input is None:
        return WEIGHT_ONLY
    return MID_RISE if choice.input.mid_rise and not site.unpadded_conv else None


def lower(model: nn.Module) -> Lowered:
    """Run quantized sites on the kernels, and everything fused whose structure is known, in place."""
    memory_pages.keep_freed_blocks()
    reasons = use_kernels(model)
    if whisper_encoder.is_seq2seq(model):
        reasons |= whisper_encoder.fuse(model)
        if reason := unknown_decoder(model):
            reasons["decoder"] = reason
        return Lowered(model, reasons)
    reason = extractor.fuse(model)
    reasons |= wav2vec2_encoder.fuse(model)
    if reason is not None:
        reasons["feature_extractor"] = reason
    return Lowered(model, reasons)


def notices(reasons: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What a user should know about how a lowered model runs here, one sentence each; nothing if all is well."""
    slow = [
        f"{name}: {part} runs module by module, which is slower, because {reason}" for part, reason in reasons.items()
    ]
    return (*slow, *([] if kernels.way() == "exact" else [f"{name}: {kernels.NOTICES[kernels.way()]}"]))
