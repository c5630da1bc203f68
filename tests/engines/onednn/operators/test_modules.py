"""Every integer module against `simulate` on the same input, for every site of every family and form."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from stablequant.engines import onednn
from stablequant.engines.onednn.operators.modules import IntegerLinear
from stablequant.engines.quantized_site import empty_site
from stablequant.engines.simulation import simulate
from stablequant.quantization.numerics.integer_grid import (
    quantize_weight,
    signed_grid,
    symmetric_scale,
)
from stablequant.quantization.plan.choice import InFloat, InputChoice, input_choice
from stablequant.quantization.plan.site import canonical_weight
from stablequant.quantization.weight_formats.rows import INT8

FLOAT_ROUNDING = 1e-5


@pytest.mark.parametrize("bits", [(8, 8), (6, 6)], ids=["w8a8", "w6a6"])
@pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
def test_every_site_agrees_with_the_simulation(family, form, bits):
    model = tiny.prepared(family, form)
    choices, weights = tiny.max_plan(model, bits, waves=[tiny.wave(0, 3000)])
    # Another recording than that of the ranges, louder: some values are clipped.
    inputs = tiny.site_inputs(model, list(choices), 1.5 * tiny.wave(1, 3000))
    for name, choice in choices.items():
        site, x = model.get_submodule(name), inputs[name]
        with torch.inference_mode():
            with simulate(model, {name: choice}, weights):
                expected = site(x)
            found = on_kernels(site, choice.input, weights[name])(x)
        assert found.shape == expected.shape
        assert tiny.relative(found, expected) <= FLOAT_ROUNDING, name


def on_kernels(module, read, weight):
    """The integer module of a float one with these values."""
    model = nn.ModuleDict({"m": empty_site(module, read.bits).fill(read, weight)})
    assert onednn.use_kernels(model) == {}
    return model["m"]


def filled(module, bits=(8, 8), low=-2.0, high=2.5, mid_rise=False):
    weight = canonical_weight(module)
    scale = symmetric_scale(weight.abs().amax(1), signed_grid(bits[0]))
    read = input_choice(low, high, bits[1], "max", mid_rise=mid_rise)
    codes = quantize_weight(weight, scale, signed_grid(bits[0]))
    quantized = INT8.grid(scale, codes.shape[1]).hold(codes)
    return on_kernels(module, read, quantized), read, quantized


def agrees(module, x, **keywords):
    torch.manual_seed(1)
    integer, read, weight = filled(module, **keywords)
    choice = replace(tiny.quantized(tiny.site_of(module)), input=read)
    with torch.inference_mode():
        with simulate(nn.ModuleDict({"m": module}), {"m": choice}, {"m": weight}):
            expected = module(x)
        return tiny.relative(integer(x), expected) <= FLOAT_ROUNDING


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 24, 32, 48, 64])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_grouped_convolutions_of_every_width(width, groups):
    torch.manual_seed(0)
    conv = nn.Conv1d(width * groups, width * groups, 16, padding=8, groups=groups)
    assert agrees(conv, torch.randn(2, width * groups, 50))


@pytest.mark.parametrize("kernel", [1, 2, 3, 10, 19, 128])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_convolutions_of_every_kernel_stride_and_padding(kernel, stride):
    for padding in (0, 1, kernel // 2):
        conv = nn.Conv1d(20, 12, kernel, stride=stride, padding=padding)
        assert agrees(conv, torch.randn(1, 20, 150)), padding


@pytest.mark.parametrize("bits", [(8, 8), (6, 6)], ids=["w8a8", "w6a6"])
def test_on_a_mid_rise_grid_small_values_keep_their_sign(bits):
    conv = nn.Conv1d(20, 12, 3, stride=2)
    assert agrees(conv, torch.randn(1, 20, 150), bits=bits, mid_rise=True)
    integer, choice, _ = filled(conv, bits=bits, mid_rise=True)
    assert integer.input.mid_rise
    tiny_values = torch.tensor([-1e-6, 1e-6])
    assert integer.quantize_input(tiny_values).tolist() == [choice.zero_point - 1, choice.zero_point]


def test_more_outputs_than_inputs_in_a_group():
    assert agrees(nn.Conv1d(6, 24, 3, groups=3), torch.randn(2, 6, 30))


@pytest.mark.parametrize("bits", [(8, 8), (6, 6), (4, 8), (2, 4), (8, 2)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_bits_and_biases(bits, bias):
    assert agrees(nn.Linear(32, 24, bias=bias), torch.randn(3, 7, 32), bits=bits)
    assert agrees(nn.Conv1d(32, 24, 3, bias=bias), torch.randn(3, 32, 9), bits=bits)


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-3.0, 0.0), (-0.1, 3.0)])
def test_zero_points_at_either_end(low, high):
    conv = nn.Conv1d(16, 8, 5, padding=4)
    assert agrees(conv, torch.randn(1, 16, 40), low=low, high=high)


LAYOUTS = {
    "one utterance, channels first": torch.randn(1, 32, 20).transpose(1, 2),
    "a batch, channels first": torch.randn(3, 32, 20).transpose(1, 2),
    "rows": torch.randn(20, 32),
    "a vector": torch.randn(32),
    "every second row": torch.randn(3, 40, 32)[:, ::2],
    "an expanded batch": torch.randn(1, 20, 32).expand(3, -1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_linear_reads_every_layout_of_memory(layout):
    assert agrees(nn.Linear(32, 24), LAYOUTS[layout])


def test_a_convolution_reads_every_layout_of_memory():
    for x in (
        torch.randn(3, 20, 16).transpose(1, 2),
        torch.randn(3, 16, 40)[:, :, ::2],
        torch.randn(3, 32, 20)[:, ::2],
    ):
        assert agrees(nn.Conv1d(16, 12, 3, padding=1, groups=2), x)


def test_the_grouped_convolution_is_exact_in_integers():
    """16 channels in each of 3 groups: oneDNN's own convolutions give wrong sums there."""
    rng = np.random.default_rng(0)
    conv = nn.Conv1d(48, 48, 16, padding=8, groups=3, bias=False)
    codes = rng.integers(-127, 128, (48, 16 * 16))
    x = rng.integers(0, 256, (1, 48, 60)) - 100
    read = InputChoice(8, "max", None, low=-100.0, high=155.0, scale=1.0, zero_point=100)
    weight = INT8.grid(torch.ones(48), 256).hold(torch.from_numpy(codes.astype(np.int8)))
    found = on_kernels(conv, read, weight)(torch.from_numpy(x.astype(np.float32)))
    padded = np.pad(x[0], ((0, 0), (8, 8)))
    expected = np.zeros((48, 61), np.int64)
    for o, t in np.ndindex(expected.shape):
        first = o // 16 * 16
        expected[o, t] = (padded[first : first + 16, t : t + 16].ravel() * codes[o]).sum()
    assert np.abs(expected).max() < 2**24
    assert np.array_equal(found[0].detach().numpy().astype(np.int64), expected)


def test_a_silent_input_gives_the_bias():
    linear = nn.Linear(32, 24)
    integer, *_ = filled(linear, low=0.0, high=0.0)
    assert torch.allclose(integer(torch.zeros(2, 32)), linear.bias.expand(2, -1))


def test_utterances_of_a_batch_do_not_see_each_other():
    conv, linear = filled(nn.Conv1d(16, 12, 3, padding=1, groups=2))[0], filled(nn.Linear(16, 12))[0]
    x = torch.randn(3, 16, 40)
    with torch.inference_mode():
        for integer, batch in ((conv, x), (linear, x.transpose(1, 2))):
            assert torch.equal(integer(batch), torch.cat([integer(each[None]) for each in batch]))


def test_state_has_no_key_that_a_float_module_has_for_its_weight():
    integer, choice, weight = filled(nn.Linear(32, 24))
    state = integer.state_dict()
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "bias": torch.float32,
        "codes": torch.int8,
        "scales": torch.float32,
        "input_scale": torch.float32,
        "input_zero_point": torch.float32,
    }
    assert torch.equal(state["codes"], weight.codes)
    assert torch.equal(state["scales"], weight.scale)
    assert (state["input_scale"].item(), state["input_zero_point"].item()) == (choice.scale, choice.zero_point)


def test_running_does_not_change_the_state_and_new_values_are_used():
    linear, x = nn.Linear(32, 24), torch.randn(5, 32)
    integer, choice, weight = filled(linear)
    before = {name: tensor.clone() for name, tensor in integer.state_dict().items()}
    first = integer(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in integer.state_dict().items())
    integer.fill(choice, weight.grid.hold(-weight.codes))
    assert torch.allclose(integer(x) - linear.bias, linear.bias - first, atol=1e-5)


@pytest.mark.parametrize("module", [nn.Linear(32, 24), nn.Conv1d(32, 24, 3)], ids=["linear", "conv"])
def test_values_that_are_loaded_after_a_run_are_used(module):
    x = torch.randn(1, 32, 32)
    integer, *_ = filled(module)
    other, *_ = filled(copy.deepcopy(module).requires_grad_(False).apply(lambda m: m.weight.mul_(-3)), high=9.0)
    before = integer(x)
    integer.load_state_dict(other.state_dict())
    assert torch.equal(integer(x), other(x))
    assert not torch.equal(integer(x), before)


def test_a_copy_of_a_module_that_has_run_gives_the_same():
    integer, *_ = filled(nn.Linear(32, 24))
    x = torch.randn(5, 32)
    expected = integer(x)
    assert torch.equal(copy.deepcopy(integer)(x), expected)


def test_an_input_that_needs_a_gradient_is_computed_as_any_other():
    integer, *_ = filled(nn.Linear(32, 24))
    x = torch.randn(5, 32)
    assert torch.equal(integer(x.clone().requires_grad_()), integer(x))


def test_values_of_one_module_that_are_loaded_alone_reach_the_joined_product():
    q, k, v = (filled(nn.Linear(32, 24))[0] for _ in range(3))
    before = q.joined(k, v)
    assert q.joined(k, v) is before
    k.load_state_dict(filled(nn.Linear(32, 24))[0].state_dict())
    assert q.joined(k, v) is not before


def test_only_quantized_sites_are_swapped():
    model = tiny.prepared(num_hidden_layers=1)
    choices, weights = tiny.max_plan(model, waves=[tiny.wave(0)])
    left = next(iter(choices))
    choices[left] = InFloat("l", "conv", "left in float")
    tiny.integer(model, choices, weights)
    assert set(tiny.integer_sites(model)) == set(choices) - {left}
    assert isinstance(model.lm_head, IntegerLinear)
    assert isinstance(model.get_submodule(left), nn.Conv1d)


def test_swapping_again_changes_nothing():
    model = nn.ModuleDict({"m": filled(nn.Linear(32, 24))[0]})
    before = model["m"]
    assert onednn.use_kernels(model) == {}
    assert model["m"] is before
