import pytest
import tiny
import torch
from torch import nn

from stablequant import correction
from stablequant.grid import QTensor, activation_grid, affine, quantize_weight, symmetric_scale, weight_grid
from stablequant.plan import Choice
from stablequant.simulate import simulate
from stablequant.sites import canonical_weight

MODULES = {
    "linear": nn.Linear(24, 10),
    "linear without bias": nn.Linear(24, 10, bias=False),
    "conv": nn.Conv1d(24, 10, 1),
    "grouped conv": nn.Conv1d(24, 12, 1, groups=4),
}


@pytest.mark.parametrize("kind", MODULES)
def test_the_mean_error_of_every_output_is_given_back(kind):
    """With one tap, where a convolution has no edges, the mean over the recordings is exact."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"site": MODULES[kind]}).requires_grad_(False)
    shape = (1, 30, 24) if isinstance(model["site"], nn.Linear) else (1, 24, 30)
    recordings = [torch.randn(shape).abs() for _ in range(3)]
    weight = canonical_weight(model["site"])
    scale = symmetric_scale(weight.abs().amax(1), weight_grid(3))
    grid_scale, zero_point = affine(0.0, 1.5, activation_grid(3))
    choice = Choice("l", "k", weight_bits=3, input_bits=3, scale=grid_scale, zero_point=zero_point)
    rounded = {"site": QTensor(quantize_weight(weight, scale, weight_grid(3)), scale)}
    corrected = correction.corrected(model, {"site": choice}, rounded, model["site"], recordings)

    def mean_error(weights):
        exact = torch.cat([model["site"](x) for x in recordings])
        with simulate(model, {"site": choice}, weights):
            error = torch.cat([model["site"](x) for x in recordings]) - exact
        return error.mean((0, 1) if isinstance(model["site"], nn.Linear) else (0, 2)).abs().max()

    assert mean_error(rounded) > 1e-2
    assert mean_error(corrected) <= 1e-5
    assert torch.equal(corrected["site"].codes, rounded["site"].codes)
    assert not model["site"]._forward_pre_hooks


def test_every_tap_of_a_convolution_reads_the_mean():
    conv = nn.Conv1d(2, 1, 3)
    weight = QTensor(torch.zeros(1, 6, dtype=torch.int8), torch.ones(1))
    mean = torch.tensor([1.0, 10.0], dtype=torch.float64)
    expected = (conv.weight.detach().sum(2) @ mean.float()).flatten()
    assert torch.allclose(correction.shift(conv, weight, mean, mean), expected)


def test_a_whole_model_gets_a_shift_at_every_site():
    model = tiny.prepared(num_hidden_layers=1)
    choices, weights = tiny.max_plan(model, (4, 4), waves=[tiny.wave(0)])
    inputs = [torch.from_numpy(tiny.wave(seed))[None] for seed in (0, 1)]
    with torch.inference_mode():
        found = correction.corrected(model, choices, weights, model, inputs)
        again = correction.corrected(model, choices, weights, model, inputs[::-1])
    assert set(found) == set(choices)
    for name, weight in found.items():
        assert weight.shift.shape == weight.scale.shape
        assert torch.allclose(weight.shift, again[name].shift, atol=1e-6)
