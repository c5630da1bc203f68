import pytest
import tiny
import torch

from stablequant.quantization.numerics.integer_grid import fake_quantize
from stablequant.quantization.plan.choice import input_choice
from stablequant.quantization.training.quantizers.activation import TrainedInput


def reference(x, logarithm, choice):
    """The formula, with rounding passed straight through inside the range."""
    scale, zero = choice.scale * logarithm.exp(), choice.exact_zero
    place = x / scale + zero
    code = (place.detach() + 0.5).floor().clamp(0, choice.grid.high)
    inside = (place >= -0.5) & (place < choice.grid.high + 0.5)
    return scale * (torch.where(inside, place + (code - place).detach(), code) - zero)


@pytest.mark.parametrize("mid_rise", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_values_are_the_engines_and_gradients_those_of_the_formula(bits, mid_rise):
    torch.manual_seed(0)
    choice = input_choice(-1.0, 2.0, bits, "max", mid_rise=mid_rise)
    x = (2 * torch.randn(50, 20)).requires_grad_()
    made = TrainedInput(choice)
    found = made(x)
    assert torch.equal(found, fake_quantize(x, choice.scale, choice.exact_zero, choice.grid))
    gradient = torch.randn(50, 20)
    found.backward(gradient)

    other, logarithm = x.detach().clone().requires_grad_(), torch.zeros((), requires_grad=True)
    reference(other, logarithm, choice).backward(gradient)
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(made.factor.grad, logarithm.grad, rtol=1e-4, atol=1e-3)


def test_a_learned_scale_is_that_of_the_range():
    made = TrainedInput(tiny.quantized(tiny.site_of(torch.nn.Linear(4, 4))).input)
    assert made.chosen() == made.choice
    with torch.no_grad():
        made.factor.add_(0.1)
    found = made.chosen()
    assert found.scale == pytest.approx(made.choice.scale * 1.10517, rel=1e-5)
    assert found.high / found.scale == pytest.approx(made.choice.high / made.choice.scale)
    assert found.method is None, "no range method found it"
