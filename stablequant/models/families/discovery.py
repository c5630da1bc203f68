"""Where a model can be quantized: every Linear and Conv1d, by module name, in the order of the forward pass.

A *layer* is what StableQuant probes: one CNN layer, the feature projection, the positional convolution, one encoder
layer, one adapter layer, or the head; it is named by the module that computes it. This file and the engine's structure
match are the only ones that look at how a model is built; everything else sees `Site`s and the canonical weight
(out, in / groups * kernel).
"""

from __future__ import annotations

from torch import nn

from ...quantization.plan.site import Site

# A convolution that multiplies this few inputs for each output (the first one of the extractor: 10 samples of audio)
# gains nothing from integers: its cost is writing the output, and its weights are 20 kB.
SMALL_WINDOW = 16


def discover(model: nn.Module) -> tuple[Site, ...]:
    """All sites of a model in forward order (the order in which the family registers its modules)."""
    return tuple(
        _site(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)
    )


def _site(name: str, module: nn.Linear | nn.Conv1d) -> Site:
    layer = layer_of(name)
    if isinstance(module, nn.Linear):
        return Site(
            name, layer, "linear", module.out_features, module.in_features, 1, 1, 0, 1, 1, _linear_reason(name)
        )
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        raise ValueError(f"{name}: padding {module.padding!r} ({module.padding_mode}) is not known")
    return Site(
        name=name,
        layer=layer,
        kind="conv" if module.groups == 1 else "grouped conv",
        out_channels=module.out_channels,
        in_channels=module.in_channels // module.groups,
        kernel=module.kernel_size[0],
        stride=module.stride[0],
        padding=module.padding[0],
        dilation=module.dilation[0],
        groups=module.groups,
        reason=_conv_reason(module),
    )


def _linear_reason(name: str) -> str | None:
    if name.endswith("gru_rel_pos_linear"):
        return "gate of WavLM's relative position bias: a few outputs for each head, kept exact"
    return None


def _conv_reason(module: nn.Conv1d) -> str | None:
    window = module.in_channels // module.groups * module.kernel_size[0]
    if window <= SMALL_WINDOW:
        return (
            f"reads the waveform, {window} multiply-adds for each output: an integer kernel is not faster, "
            "and 8 bits would add noise to the audio itself"
        )
    if module.dilation[0] != 1:
        return "dilated convolution: the integer kernels do not have it"
    return None


def layer_of(name: str) -> str:
    """The layer of a site: up to the index in conv_layers / layers, or the named block, or the module itself."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part in ("feature_projection", "pos_conv_embed"):
            return ".".join(parts[: index + 1])
        if part in ("conv_layers", "layers") and index + 1 < len(parts) and parts[index + 1].isdigit():
            return ".".join(parts[: index + 2])
    return name
