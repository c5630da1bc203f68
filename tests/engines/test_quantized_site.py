"""The state of a quantized site: its reference against `simulate`, and the product that engines read against both."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from stablequant.engines.quantized_site import QuantizedSite, convert, empty_site, skeleton
from stablequant.engines.simulation import simulate
from stablequant.foundation.errors import InputError
from stablequant.quantization.numerics.integer_grid import quantize
from stablequant.quantization.plan.choice import InFloat
from stablequant.quantization.plan.site import canonical_weight
from stablequant.quantization.search import rounding_pass
from stablequant.quantization.weight_formats.rows import INT8

FLOAT_ROUNDING = 1e-5
MODULES = {
    "linear": (lambda: nn.Linear(32, 24), (3, 7, 32)),
    "linear without bias": (lambda: nn.Linear(32, 24, bias=False), (5, 32)),
    "conv": (lambda: nn.Conv1d(20, 12, 3, stride=2), (2, 20, 50)),
    "padded conv": (lambda: nn.Conv1d(20, 12, 5, padding=2), (1, 20, 50)),
    "dilated conv": (lambda: nn.Conv1d(20, 12, 3, dilation=4, padding=4), (1, 20, 50)),
    "grouped conv": (lambda: nn.Conv1d(24, 36, 4, padding=2, groups=3, bias=False), (2, 24, 50)),
}
BITS = [(8, 8), (6, 6), (4, 8), (3, 8), (2, 4)]


def one_site(kind, bits=(8, 8), mid_rise=False):
    """(a float module, an input, the choice for it, its weight, its state)"""
    torch.manual_seed(0)
    make, shape = MODULES[kind]
    module = make().requires_grad_(False)
    choice = tiny.quantized(tiny.site_of(module), bits, mid_rise=mid_rise)
    [weight] = rounding_pass.round_site(canonical_weight(module), [choice])
    site = empty_site(module, bits[1], weight.format.stored).fill(choice.input, weight)
    return module, torch.randn(shape), choice, weight, site


@pytest.mark.parametrize("mid_rise", [False, True], ids=["mid-tread", "mid-rise"])
@pytest.mark.parametrize("bits", BITS, ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_the_reference_is_the_simulation(kind, bits, mid_rise):
    module, x, choice, weight, site = one_site(kind, bits, mid_rise)
    with simulate(nn.ModuleDict({"m": module}), {"m": choice}, {"m": weight}):
        expected = module(x)
    found = site(x)
    assert found.shape == expected.shape
    assert tiny.relative(found, expected) <= FLOAT_ROUNDING


@pytest.mark.parametrize("bits", BITS, ids=str)
@pytest.mark.parametrize(
    ("kind", "mid_rise"), [*((kind, False) for kind in MODULES), ("conv", True), ("linear", True)], ids=str
)
def test_an_engine_needs_no_more_than_whole_zero_points(kind, mid_rise, bits):
    _, x, choice, _, site = one_site(kind, bits, mid_rise)
    grid, weight = site.input_grid(), site.integer_weight()
    assert isinstance(grid.zero_point, int)
    assert weight.codes.dtype == torch.int8
    assert grid.exact == choice.input.exact_zero
    codes = quantize(x, grid.scale, grid.exact, grid.codes).double() - grid.zero_point
    form, weight_codes = site.form, weight.codes.double()
    if form.is_conv:
        sums = F.conv1d(codes, weight_codes, None, form.stride, form.padding, form.dilation, form.groups)
        sums = sums.transpose(1, 2)
    else:
        sums = F.linear(codes, weight_codes)
    assert torch.equal(sums, sums.round())
    found = sums * (grid.scale * weight.scales.double()) + weight.bias
    assert tiny.relative(found, site(x).transpose(1, 2) if form.is_conv else site(x)) <= FLOAT_ROUNDING


def test_on_a_mid_rise_grid_the_bias_holds_half_a_code_of_every_weight():
    site = one_site("conv", mid_rise=True)[-1]
    grid, weight = site.input_grid(), site.integer_weight()
    assert grid.mid_rise
    assert grid.below == 0.5
    silence = F.conv1d(torch.full((1, 20, 3), 0.5 * grid.scale), weight.codes.float() * weight.scales[:, None, None])
    assert torch.allclose(weight.bias - site.bias, silence[0, :, 0], atol=1e-6)


def test_only_what_pads_nothing_may_be_mid_rise():
    for kind in ("linear", "padded conv"):
        with pytest.raises(InputError, match="m: its input_zero_point is not whole, so the file is damaged"):
            one_site(kind, mid_rise=True)[-1].check("m")
    one_site("conv", mid_rise=True)[-1].check("m")


@pytest.mark.parametrize("kind", MODULES)
def test_values_that_are_loaded_are_used(kind):
    _, x, _, _, site = one_site(kind)
    other = empty_site(MODULES[kind][0](), 8)
    other.load_state_dict(site.state_dict())
    assert torch.equal(other(x), site(x))


UNFIT = {
    "LayerNorm": nn.LayerNorm(4),
    "Conv2d": nn.Conv2d(4, 4, 3),
    "padding 'same'": nn.Conv1d(4, 4, 3, padding="same"),
    "circular": nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_has_no_state_is_named(name):
    with pytest.raises(TypeError, match=f"{name}.* cannot be quantized"):
        empty_site(UNFIT[name], 8)


def test_converting_swaps_the_quantized_sites_and_no_others():
    model = tiny.prepared(num_hidden_layers=1)
    choices, weights = tiny.max_plan(model, waves=[tiny.wave(0)])
    left = next(iter(choices))
    choices[left] = InFloat("l", "conv", "left in float")
    convert(model, choices, weights)
    found = {name for name, module in model.named_modules() if isinstance(module, QuantizedSite)}
    assert found == set(choices) - {left}


def test_a_skeleton_has_the_shapes_of_the_converted_model():
    model, empty = tiny.prepared(num_hidden_layers=1), tiny.prepared(num_hidden_layers=1)
    choices, weights = tiny.max_plan(model, waves=[tiny.wave(0)])
    convert(model, choices, weights)
    skeleton(empty, dict.fromkeys(choices, (INT8, 8)))
    shapes = [{k: (v.shape, v.dtype) for k, v in each.state_dict().items()} for each in (model, empty)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["wav2vec2.nothing", "wav2vec2.encoder.layer_norm", ""])
def test_a_skeleton_of_a_site_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match=r"config\.json has a quantized site"):
        skeleton(tiny.prepared(num_hidden_layers=1), {name: (INT8, 8)})
