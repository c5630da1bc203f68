import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stablequant.quantization.ranges import mse
from stablequant.quantization.training.weight_quantizer import TrainedWeight
from stablequant.quantization.weight_formats.base import parse

FORMATS = ("w8", "w5", "w4g32z", "w4g32", "w4", "w3g32z", "w3g16", "w2g32", "w2g32z", "w2z")


def trained(format, seed=0, moved=0.0):
    """A trained weight (6, 80), which 32 does not divide, `moved` at random from where it starts; and the start."""
    torch.manual_seed(seed)
    weight = nn.Parameter(torch.randn(6, 80))
    grid = parse(format).fit(weight.detach(), mse.weights)
    start = grid.hold(grid.nearest(weight.detach()))
    made = TrainedWeight(weight, start)
    with torch.no_grad():
        for each in (made.master, made.scale, made.steps, made.offsets):
            if each.requires_grad:
                each.add_(moved * torch.randn_like(each))
    made.place()
    return made, start


@pytest.mark.parametrize("format", FORMATS)
def test_it_starts_as_the_weight_that_was_rounded(format):
    made, start = trained(format)
    assert torch.equal(made.target[0], start.dequantize())
    found = made.quantized()
    assert torch.equal(found.codes, start.codes)
    assert torch.equal(found.scale, start.scale)


@given(st.sampled_from(FORMATS), st.integers(0, 99), st.floats(0, 3))
def test_what_trains_is_what_is_written(format, seed, moved):
    made, _ = trained(format, seed, moved)
    found = made.quantized()
    assert torch.equal(made.target[0], found.dequantize())
    stored = found.format.store(found, found.codes.shape)
    assert found.format.problem(stored, found.codes.shape) is None
    loaded = found.format.load(stored, found.codes.shape)
    assert torch.equal(loaded.codes, found.codes)
    assert int(found.codes.abs().max()) <= 127


@pytest.mark.parametrize("format", FORMATS)
def test_gradients_are_those_of_the_formula_with_rounding_passed_straight_through(format):
    made, _ = trained(format, moved=0.3)
    master, scale, steps, offsets = (
        each.detach().clone().requires_grad_() for each in (made.master, made.scale, made.steps, made.offsets)
    )

    def through(real, rounded):
        return real + (rounded - real).detach()

    of = parse(format)
    row = made.first_scale * scale.exp()
    whole_steps, whole_offsets = of.whole(
        (made.first_steps * steps.exp()).detach(), (offsets * made.first_steps).detach()
    )
    # A step counts as what it is rounded to: the derivative by its logarithm is the whole step.
    step = whole_steps * (steps - steps.detach()).exp()
    if of.asymmetric:
        offset = through(offsets * made.first_steps, whole_offsets)
    else:
        offset = through(-step * of.top / 2, whole_offsets) if of.coarse else whole_offsets
    unit = (made.first_steps * made.first_scale[:, None])[..., None]
    place = (master * unit / row[:, None, None] - offset[..., None]) / step[..., None]
    code = place.detach().round().clamp(0, of.top)
    inside = (place > -0.5) & (place < of.top + 0.5)
    code = torch.where(inside, through(place, code), code)
    expected = row[:, None, None] * (offset[..., None] + step[..., None] * code)
    gradient = torch.randn(6, 80)
    (expected.flatten(1)[:, :80] * gradient).sum().backward()

    made.target[0].grad = gradient
    made.collect()
    assert made.target[0].grad is None
    for ours, reference in ((made.master, master), (made.scale, scale), (made.steps, steps), (made.offsets, offsets)):
        if ours.requires_grad:
            wanted = torch.zeros_like(reference) if reference.grad is None else reference.grad
            torch.testing.assert_close(ours.grad, wanted, rtol=1e-4, atol=1e-4)
