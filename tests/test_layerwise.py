import math

import pytest
import tiny
import torch

from stablequant import layerwise, sites
from stablequant.plan import Choice
from stablequant.simulate import simulate

BITS = 3


@pytest.fixture
def recognizer(tmp_path):
    return tiny.recognizer("wav2vec2", "base", tmp_path=tmp_path)


def rounded(recognizer, rounding, seen=None):
    choices, _ = tiny.max_plan(recognizer.model, (BITS, 8))
    choices = {name: Choice(**{**vars(choice), "rounding": rounding}) for name, choice in choices.items()}
    found = [site for site in sites.discover(recognizer.model) if site.reason is None]

    def waveforms(layer):
        if seen is not None:
            seen.append(layer)
        return [tiny.wave(n) for n in range(4)]

    weights = {}
    for _, here in layerwise.round_layers(recognizer, found, choices, waveforms):
        weights |= here
    return choices, weights, found


def loss(recognizer, choices, weights):
    """Relative squared error of the logits."""
    lost = power = 0.0
    with torch.inference_mode():
        for n in range(4):
            expected = recognizer.logits(tiny.wave(n)).double()
            with simulate(recognizer.model, choices, weights):
                lost += float((recognizer.logits(tiny.wave(n)).double() - expected).square().sum())
            power += float(expected.square().sum())
    return lost / power


def test_compensated_rounding_leaves_the_logits_nearer_than_nearest(recognizer):
    errors = [loss(recognizer, *rounded(recognizer, rounding)[:2]) for rounding in ("nearest", "compensated")]
    assert errors[1] < 0.7 * errors[0]


def test_every_layer_is_rounded_once_in_forward_order_and_the_model_stays_float(recognizer):
    before = {name: value.clone() for name, value in recognizer.model.state_dict().items()}
    seen = []
    choices, weights, found = rounded(recognizer, "compensated", seen)
    assert seen == list(sites.layers(tuple(found)))
    assert set(weights) == set(choices)
    after = recognizer.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_nearest_runs_nothing(recognizer):
    seen = []
    rounded(recognizer, "nearest", seen)
    assert seen == []


def test_the_same_weights_twice(recognizer):
    first, second = (rounded(recognizer, "compensated")[1] for _ in range(2))
    assert all(torch.equal(first[name].codes, second[name].codes) for name in first)


def test_a_layer_sees_what_the_layers_before_it_give_when_they_are_quantized(recognizer, monkeypatch):
    """The Gram matrix of the head's input is that of the simulated prefix, not of the float one."""
    collected = {}
    collect = layerwise.gram.collect

    def spy(*args):
        found = collect(*args)
        collected.update(found)
        return found

    monkeypatch.setattr(layerwise.gram, "collect", spy)
    choices, weights, _ = rounded(recognizer, "compensated")
    inputs = []
    handle = recognizer.model.lm_head.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
    prefix = {name: choice for name, choice in choices.items() if name != "lm_head"}
    with torch.inference_mode(), simulate(recognizer.model, prefix, weights):
        for n in range(4):
            recognizer.logits(tiny.wave(n))
    handle.remove()
    [(_, (first, second))] = collected["lm_head"].blocks()
    expected = sum(x.T @ x for x in inputs)
    assert torch.allclose(first + second, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_a_weight_keeps_the_noise_of_its_bits(bits, recognizer):
    module = recognizer.model.lm_head
    choices, _ = tiny.max_plan(recognizer.model, (bits, 8))
    weight = sites.canonical_weight(module)
    wrong = layerwise.round_site(weight, choices["lm_head"]).dequantize() - weight
    decibels = -10 * math.log10(float(wrong.square().mean() / weight.square().mean()))
    assert 6 * bits - 8 < decibels < 6 * bits + 6
