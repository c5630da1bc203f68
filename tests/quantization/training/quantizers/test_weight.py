import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stablequant.quantization.ranges import mse
from stablequant.quantization.training.quantizers.weight import TrainedWeight
from stablequant.quantization.weight_formats.base import parse

FORMATS = (
    "w8",
    "w8-2:4",
    "w4g32z-2:4",
    "w3g16-1:4",
    "w2g32z-2:8",
    "w5",
    "w4g32z",
    "w4g32",
    "w4",
    "w3g32z",
    "w3g16",
    "w2g32",
    "w2g32z",
    "w2z",
)


def trained(format, seed=0, moved=0.0):
    """A trained weight (6, 80), which 32 does not divide, `moved` at random from where it starts; and the start."""
    torch.manual_seed(seed)
    weight = nn.Parameter(torch.randn(6, 80))
    grid = parse(format).fit(weight.detach(), mse.weights)
    start = grid.hold(grid.nearest(weight.detach()))
    made = TrainedWeight(weight, start)
    with torch.no_grad():
        for each in (made.master.steps, made.scale, made.steps, made.offsets):
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
    made, start = trained(format, seed, moved)
    found = made.quantized()
    assert torch.equal(made.target[0], found.dequantize())
    stored = found.format.store(found, found.codes.shape)
    assert found.format.problem(stored, found.codes.shape) is None
    if found.grid.kept is not None:
        assert torch.equal(found.grid.kept, start.grid.kept)
        assert not made.target[0][~found.grid.kept].any()
    loaded = found.format.load(stored, found.codes.shape)
    assert torch.equal(loaded.codes, found.codes)
    assert int(found.codes.abs().max()) <= 127


@pytest.mark.parametrize("format", FORMATS)
def test_gradients_are_those_of_the_formula_with_rounding_passed_straight_through(format):
    made, start = trained(format, moved=0.3)
    master, scale, steps, offsets = (
        each.detach().clone().requires_grad_() for each in (made.master.steps, made.scale, made.steps, made.offsets)
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
        offset = through(-step * of.top / 2, whole_offsets) if of.bits <= 4 else whole_offsets
    weight = start.dequantize() + master * made.master.unit[:, made.grid.group]
    place = (made._grouped(weight) / row[:, None, None] - offset[..., None]) / step[..., None]
    code = place.detach().round().clamp(0, of.top)
    inside = (place > -0.5) & (place < of.top + 0.5)
    code = torch.where(inside, through(place, code), code)
    expected = row[:, None, None] * (offset[..., None] + step[..., None] * code)
    kept = torch.ones(6, 80) if made.grid.kept is None else made.grid.kept
    gradient = torch.randn(6, 80)
    (expected.flatten(1)[:, :80] * kept * gradient).sum().backward()

    made.target[0].grad = gradient
    made.collect()
    assert made.target[0].grad is None
    learned = (made.master.steps, made.scale, made.steps, made.offsets)
    for ours, reference in zip(learned, (master, scale, steps, offsets), strict=True):
        if ours.requires_grad:
            wanted = torch.zeros_like(reference) if reference.grad is None else reference.grad
            torch.testing.assert_close(ours.grad, wanted, rtol=1e-4, atol=1e-4)
