"""Where a model can be quantized: every module with a weight matrix, by name, in the order of the forward pass.

A *layer* is what StableQuant probes: one CNN layer, the feature projection, the positional convolution, one encoder
layer, one adapter layer, or the head; it is named by the module that computes it. This file and the engine's structure
match are the only ones that look at how a model is built; everything else sees `Site`s and the canonical weight
(out, in / groups * kernel). A module whose weight is not to be quantized, or has no canonical form, is a site with a
reason. What an engine cannot run is not known here: it is asked where a calibration begins (search/session.py).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ...quantization.plan.site import Site

# A convolution that multiplies this few inputs for each output (the first one of the extractor: 10 samples of audio)
# gains nothing from integers: its cost is writing the output, and its weights are 20 kB.
SMALL_WINDOW = 16
PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("linear_q", "linear_k", "linear_v"))  # query first
CROSS_ATTENTION = ("encoder_attn", "cross_attn", "crossattention")  # its keys and values are of another input


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """All sites of a model in forward order (the order in which the family registers its modules)."""
    weights = [(name, module, module.weight) for name, module in model.named_modules() if _has_matrix(module)]
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module, weight in weights:
        owners.setdefault(id(weight), []).append((name, module))
    return tuple(_site(name, module, owners[id(weight)]) for name, module, weight in weights)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


def _site(name: str, module: nn.Module, owners: list[tuple[str, nn.Module]]) -> Site:
    """The site of a module; `owners` are the modules that have its weight, itself among them."""
    table = _table(owners)
    parted = "shares its weight with another module, and an integer copy of its own would part them"
    shared = parted if len(owners) > 1 and table is None else None
    if isinstance(module, nn.Linear):
        site = _plain(name, module, "linear", shared or _linear_reason(name))
        return site if table is None else replace(site, layer=table)  # computed where the table is first looked up
    if table is not None:
        return _plain(name, module, type(module).__name__, f"looked up in the codes of {owners[1][0]}, row by row")
    if isinstance(module, nn.Conv1d):
        return _conv_site(name, module, shared)
    kind = type(module).__name__
    known = "a table that is looked up, not multiplied" if isinstance(module, nn.Embedding) else None
    return _plain(name, module, kind, known or shared or f"{kind}: only linear layers and Conv1d can be quantized")


def _table(owners: list[tuple[str, nn.Module]]) -> str | None:
    """The name of the embedding that shares its weight with one linear layer, as of tokens; None otherwise."""
    kinds = [type(module) for _, module in owners]
    return owners[0][0] if kinds == [nn.Embedding, nn.Linear] else None


def _plain(name: str, module: nn.Module, kind: str, reason: str | None) -> Site:
    """A site whose weight is one matrix, whatever its other dimensions mean."""
    assert isinstance(module.weight, Tensor)
    rows, *rest = module.weight.shape
    columns = 1
    for size in rest:
        columns *= size
    return Site(name, layer_of(name), kind, rows, columns, 1, 1, 0, 1, 1, reason, _shared_input(name))


def _conv_site(name: str, module: nn.Conv1d, shared: str | None) -> Site:
    padding = module.padding
    return Site(
        name=name,
        layer=layer_of(name),
        kind="conv" if module.groups == 1 else "grouped conv",
        out_channels=module.out_channels,
        in_channels=module.in_channels // module.groups,
        kernel=module.kernel_size[0],
        stride=module.stride[0],
        padding=0 if isinstance(padding, str) else padding[0],
        dilation=module.dilation[0],
        groups=module.groups,
        reason=shared or _conv_reason(module),
    )


def _linear_reason(name: str) -> str | None:
    if name.endswith("gru_rel_pos_linear"):
        return "gate of WavLM's relative position bias: a few outputs for each head, kept exact"
    return None


def _conv_reason(module: nn.Conv1d) -> str | None:
    window = module.in_channels // module.groups * module.kernel_size[0]
    if window <= SMALL_WINDOW and module.in_channels == 1:
        return (
            f"reads the waveform, {window} multiply-adds for each output: an integer kernel is not faster, "
            "and 8 bits would add noise to the audio itself"
        )
    if window <= SMALL_WINDOW:
        return f"{window} multiply-adds for each output: an integer kernel is not faster"
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return (
            f"padding {module.padding!r} ({module.padding_mode}): only padding with a number of zeros can be quantized"
        )
    return None


def _shared_input(name: str) -> str:
    """The key of the input that an attention projection shares with others of its block, or ""."""
    block, _, last = name.rpartition(".")
    for projections in PROJECTIONS:
        if last in projections:
            crossed = block.rpartition(".")[2] in CROSS_ATTENTION
            return "" if crossed and last == projections[0] else block
    return ""


def layer_of(name: str) -> str:
    """The layer of a site: up to the index in conv_layers / layers, or the named block, or the module itself."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part in ("feature_projection", "pos_conv_embed"):
            return ".".join(parts[: index + 1])
        if part in ("conv_layers", "layers") and index + 1 < len(parts) and parts[index + 1].isdigit():
            return ".".join(parts[: index + 2])
    return name
