import numpy as np
import pytest
import tiny
import torch
from torch import nn

from stablequant.engines.simulation import simulate
from stablequant.foundation.errors import InputError
from stablequant.quantization.numerics.integer_grid import (
    quantize_weight,
    signed_grid,
    symmetric_scale,
)
from stablequant.quantization.plan.choice import InFloat
from stablequant.quantization.plan.site import canonical_weight
from stablequant.quantization.weight_formats.rows import INT8

MODULES = {
    "linear": lambda: nn.Linear(24, 10),
    "linear without bias": lambda: nn.Linear(24, 10, bias=False),
    "conv": lambda: nn.Conv1d(24, 10, 3, stride=2),
    "padded conv": lambda: nn.Conv1d(24, 10, 4, padding=2),
    "grouped conv": lambda: nn.Conv1d(24, 12, 5, padding=2, groups=4),
}


def one_site(make, bits):
    """A model of one module, its input (2, 24, 30) or (2, 30, 24), its choice and its weight."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"site": make()}).requires_grad_(False)
    linear = isinstance(model["site"], nn.Linear)
    x = torch.randn(2, 24, 30).transpose(1, 2) if linear else torch.randn(2, 24, 30)
    weight = canonical_weight(model["site"])
    scale = symmetric_scale(weight.abs().amax(1), signed_grid(bits[0]))
    # The range is narrower than the values, so some are clipped.
    choice = tiny.quantized(tiny.site_of(model["site"]), bits, -1.5, 2.0)
    codes = quantize_weight(weight, scale, signed_grid(bits[0]))
    return model, x, choice, INT8.grid(scale, codes.shape[1]).hold(codes)


def integer_reference(module, x, choice, weight):
    """The site in numpy integers, then one float64 scaling: (batch, ..., out)."""
    read, top = choice.input, choice.input.grid.high
    codes = np.floor(x.numpy() * np.float32(1 / read.scale) + np.float32(read.zero_point + 0.5))
    codes = np.clip(codes, 0, top).astype(np.int64) - read.zero_point
    w = weight.codes.numpy().astype(np.int64)
    scale = weight.scale.double().numpy() * read.scale
    bias = 0.0 if module.bias is None else module.bias.double().numpy()
    if isinstance(module, nn.Linear):
        return codes @ w.T * scale + bias
    pad, kernel, stride, groups = module.padding[0], module.kernel_size[0], module.stride[0], module.groups
    codes = np.pad(codes, ((0, 0), (0, 0), (pad, pad)))
    frames = (codes.shape[2] - kernel) // stride + 1
    each_in, each_out = codes.shape[1] // groups, len(w) // groups
    out = np.zeros((len(codes), len(w), frames), np.int64)
    for b, o, t in np.ndindex(out.shape):
        first = o // each_out * each_in
        window = codes[b, first : first + each_in, t * stride : t * stride + kernel]
        out[b, o, t] = (window.ravel() * w[o]).sum()
    return out * scale[:, None] + (bias[:, None] if module.bias is not None else 0.0)


@pytest.mark.parametrize("bits", [(8, 8), (6, 6), (4, 8), (2, 3)], ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_the_result_is_that_of_integers(kind, bits):
    model, x, choice, weight = one_site(MODULES[kind], bits)
    expected = integer_reference(model["site"], x, choice, weight)
    with simulate(model, {"site": choice}, {"site": weight}):
        found = model["site"](x)
    assert np.abs(found.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_site_that_stays_in_float_is_not_touched():
    model, x, _, _ = one_site(MODULES["linear"], (8, 8))
    expected = model["site"](x)
    with simulate(model, {"site": InFloat("site", "linear", "so")}, {}):
        assert torch.equal(model["site"](x), expected)


def state(model):
    return {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}


def untouched(model, before, x, logits):
    after = state(model)
    assert all(after[name][0] == before[name][0] and torch.equal(after[name][1], t) for name, (_, t) in before.items())
    assert all(not module._forward_pre_hooks for module in model.modules())
    with torch.inference_mode():
        return torch.equal(model(x).logits, logits)


@pytest.mark.parametrize(("family", "form"), [("wav2vec2", "base"), ("wavlm", "large"), ("data2vec-audio", "base")])
def test_afterwards_the_model_is_as_it_was_bit_for_bit(family, form):
    model, x = tiny.prepared(family, form), torch.from_numpy(tiny.wave(0))[None]
    choices, weights = tiny.max_plan(model, waves=[tiny.wave(0)])
    with torch.inference_mode():
        logits, before = model(x).logits, state(model)
        with simulate(model, choices, weights):
            assert not torch.equal(model(x).logits, logits)
    assert untouched(model, before, x, logits)
    with pytest.raises(ZeroDivisionError), simulate(model, choices, weights):
        raise ZeroDivisionError
    assert untouched(model, before, x, logits)


def test_a_plan_that_does_not_fit_is_told_and_undone():
    model, x = tiny.prepared(), torch.from_numpy(tiny.wave(0))[None]
    choices, weights = tiny.max_plan(model, waves=[tiny.wave(0)])
    with torch.inference_mode():
        logits, before = model(x).logits, state(model)
    extra = {**choices, "wav2vec2.nothing.here": choices["lm_head"]}
    with pytest.raises(InputError, match=r"does not have: wav2vec2\.nothing\.here"), simulate(model, extra, weights):
        pass
    assert untouched(model, before, x, logits)


def test_a_weight_that_is_computed_at_each_call_is_refused():
    model = tiny.build()
    name = "wav2vec2.encoder.pos_conv_embed.conv"
    choices, weights = tiny.max_plan(tiny.prepared(), waves=[tiny.wave(0)])
    with pytest.raises(TypeError, match="prepare the model first"), simulate(model, {name: choices[name]}, weights):
        pass
