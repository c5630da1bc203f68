import pytest
import torch
from torch import nn

from stablequant.quantization.ranges import mse
from stablequant.quantization.training.quantizers.mixture import PREFERRED, MixedWeight, Widths, likely
from stablequant.quantization.weight_formats.base import parse

FORMATS = {8: "w8", 4: "w4g32z", 3: "w3g32z", 2: "w2g32z"}
BYTES = {8: 500, 4: 300, 3: 240, 2: 180}


def rounded(weight, bits):
    grid = parse(FORMATS[bits]).fit(weight, mse.weights)
    return grid.hold(grid.nearest(weight))


def mixed(seed=0, moved=0.2):
    torch.manual_seed(seed)
    weight = nn.Parameter(torch.randn(6, 80))
    made = MixedWeight(weight, Widths({bits: rounded(weight.detach(), bits) for bits in FORMATS}, BYTES, 3))
    with torch.no_grad():
        made.master.steps.add_(moved * torch.randn_like(made.master.steps))
    made.sample(made.value.softmax(0), torch.randn(4), 1.0)
    made.place()
    return made


def test_it_holds_the_mixture_of_its_widths():
    made = mixed()
    assert float(made.share.sum()) == pytest.approx(1.0, abs=1e-6)
    expected = sum(share * made.chosen(bits).dequantize() for share, bits in zip(made.share, FORMATS, strict=True))
    torch.testing.assert_close(made.target[0].detach(), expected)


def test_before_it_moves_each_width_is_its_start():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 80))
    starts = {bits: rounded(weight.detach(), bits) for bits in FORMATS}
    made = MixedWeight(weight, Widths(starts, BYTES, 4))
    for bits, start in starts.items():
        assert torch.equal(made.chosen(bits).codes, start.codes)
    assert made.value.tolist() == [0.0, PREFERRED, 0.0, 0.0]


def test_a_cold_mixture_is_one_width():
    made = mixed()
    made.sample(torch.ones(4) / 4, torch.tensor([0.0, 0.0, 0.0, 50.0]), 0.01)
    made.place()
    torch.testing.assert_close(made.target[0].detach(), made.chosen(2).dequantize())


def test_gains_are_minus_the_gradient_by_the_shares():
    made = mixed()
    share, gradient = made.share.clone().requires_grad_(), torch.randn(6, 80)
    values = torch.stack([one.value() for one in made.of])
    (torch.einsum("b,bij->ij", share, values) * gradient).sum().backward()
    made.target[0].grad = gradient.clone()
    made.collect()
    torch.testing.assert_close(made.gain, -share.grad)
    assert made.target[0].grad is None


def test_master_values_have_the_gradients_of_all_widths_by_their_shares():
    made, gradient = mixed(), torch.randn(6, 80)
    expected = torch.zeros(6, 80)
    for share, one in zip(made.share, made.of, strict=True):
        made.master.steps.grad = None
        one.learn(gradient * share)
        expected += made.master.steps.grad
    made.master.steps.grad = None
    made.target[0].grad = gradient.clone()
    made.collect()
    torch.testing.assert_close(made.master.steps.grad, expected)
    assert all(each.grad is not None for each in made.grids)


def test_a_higher_price_makes_smaller_widths_likely():
    bytes = mixed().bytes
    expected = [float(likely(torch.zeros(4), bytes, price) @ bytes) for price in (0.0, 0.005, 0.05, 5.0)]
    assert expected == sorted(expected, reverse=True)
    assert expected[0] == pytest.approx(sum(BYTES.values()) / 4)
    assert expected[-1] == pytest.approx(min(BYTES.values()))
