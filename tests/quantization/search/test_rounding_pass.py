import math
from collections import Counter
from dataclasses import replace

import pytest
import tiny
import torch

from stablequant.engines.simulation import simulate
from stablequant.models.families.sites import find_sites
from stablequant.quantization.plan.site import canonical_weight, layers_of
from stablequant.quantization.search import rounding_pass
from stablequant.quantization.search.forward_pass import Passage
from stablequant.quantization.weight_formats.base import weight_format

BITS = 3
WAVES = 4
CONVS = "wav2vec2.feature_extractor.conv_layers"


@pytest.fixture
def recognizer(tmp_path):
    return tiny.recognizer("wav2vec2", "base", tmp_path=tmp_path)


def passages(recognizer):
    """The recordings as every model takes them."""
    return [Passage(recognizer.inputs(tiny.wave(n)), None, len(tiny.wave(n))) for n in range(WAVES)]


def weighed(choice, **changes):
    """The choice with another weight."""
    return replace(choice, weight=replace(choice.weight, **changes))


def rounded(recognizer, rounding, folder, ran=None):
    choices, _ = tiny.max_plan(recognizer.model, (BITS, 8))
    choices = {name: weighed(choice, rounding=rounding) for name, choice in choices.items()}
    found = [site for site in find_sites(recognizer.model) if site.reason is None]

    weights, heard = {}, passages(recognizer)
    several = {name: [choice] for name, choice in choices.items()}
    for layer, here, times in rounding_pass.round_layers(recognizer, found, several, lambda: heard, folder):
        weights |= {name: one for name, [one] in here.items()}
        if ran is not None:
            ran[layer] = times
    return choices, weights, found


def loss(recognizer, choices, weights):
    """Relative squared error of the logits."""
    lost = power = 0.0
    with torch.inference_mode():
        for n in range(WAVES):
            expected = tiny.logits(recognizer, tiny.wave(n)).double()
            with simulate(recognizer.model, choices, weights):
                lost += float((tiny.logits(recognizer, tiny.wave(n)).double() - expected).square().sum())
            power += float(expected.square().sum())
    return lost / power


def test_compensated_rounding_leaves_the_logits_nearer_than_nearest(recognizer, tmp_path):
    errors = [
        loss(recognizer, *rounded(recognizer, rounding, tmp_path)[:2]) for rounding in ("nearest", "compensated")
    ]
    assert errors[1] < 0.7 * errors[0]


def test_every_layer_is_rounded_once_in_forward_order_and_the_model_stays_float(recognizer, tmp_path):
    before = {name: value.clone() for name, value in recognizer.model.state_dict().items()}
    ran = {}
    choices, weights, found = rounded(recognizer, "compensated", tmp_path, ran)
    assert list(ran) == list(layers_of(tuple(site for site in found if site.reason is None)))
    assert set(weights) == set(choices)
    after = recognizer.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_no_layer_is_computed_twice_for_a_recording(recognizer, tmp_path):
    """But for those whose output is too large to keep, as of the first convolutions."""
    ran = {}
    *_, found = rounded(recognizer, "compensated", tmp_path, ran)
    times = sum((Counter(each) for each in ran.values()), Counter())
    assert set(times) == set(layers_of(tuple(found))) - {"lm_head"}
    assert {name for name, count in times.items() if count > WAVES} < {f"{CONVS}.{n}" for n in range(4)}


def test_nearest_runs_nothing(recognizer, tmp_path):
    ran = {}
    rounded(recognizer, "nearest", tmp_path, ran)
    assert not any(ran.values())


def test_the_same_weights_twice(recognizer, tmp_path):
    first, second = (rounded(recognizer, "compensated", tmp_path)[1] for _ in range(2))
    assert all(torch.equal(first[name].codes, second[name].codes) for name in first)


@pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
def test_what_is_kept_is_what_the_quantized_prefix_gives(family, form, tmp_path, monkeypatch):
    """The Gram matrices of every layer are those behind the simulated layers before it, from the waveform on."""
    recognizer = tiny.recognizer(family, form, tmp_path=tmp_path)
    collected = {}
    collect = rounding_pass.gram.collect

    def spy(*args):
        found = collect(*args)
        collected.update(found)
        return found

    monkeypatch.setattr(rounding_pass.gram, "collect", spy)
    choices, weights, found = rounded(recognizer, "compensated", tmp_path)
    for layer in layers_of(tuple(site for site in found if site.name in choices)):
        here = [site for site in found if site.layer == layer and site.name in choices]
        prefix = {name: choice for name, choice in choices.items() if _before(name, here[0].name, found)}
        with torch.inference_mode(), simulate(recognizer.model, prefix, weights):
            inputs = (each.inputs for each in passages(recognizer))
            expected = collect(recognizer.model, here, recognizer.logits, inputs)
        for site in here:
            for group in range(site.groups):
                power = expected[site.name].power(group)
                assert torch.allclose(
                    collected[site.name].power(group), power, rtol=0.02, atol=0.02 * float(power.max())
                )


def _before(name, other, found):
    names = [site.name for site in found]
    return names.index(name) < names.index(other)


def test_a_site_alone_is_rounded_behind_the_float_model_once_for_each_choice(recognizer, tmp_path):
    choices, _ = tiny.max_plan(recognizer.model, (BITS, 8))
    found = [site for site in find_sites(recognizer.model) if site.reason is None]
    formats = [weight_format(bits, 16) for bits in (3, 2)]
    several = {
        name: [weighed(choice, rounding="compensated", format=format) for format in formats]
        for name, choice in choices.items()
    }
    heard = passages(recognizer)
    weights = {}
    for _, here, _ in rounding_pass.round_layers(recognizer, found, several, lambda: heard, tmp_path, follow=False):
        weights |= here
    with torch.inference_mode():
        expected = rounding_pass.gram.collect(
            recognizer.model, found, recognizer.logits, [each.inputs for each in heard]
        )
    for name, rounded_here in weights.items():
        weight = canonical_weight(recognizer.model.get_submodule(name))
        for choice, one in zip(several[name], rounded_here, strict=True):
            [alone] = rounding_pass.round_site(weight, [choice], expected[name])
            assert torch.equal(one.codes, alone.codes)


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_a_weight_keeps_the_noise_of_its_bits(bits, recognizer):
    module = recognizer.model.lm_head
    choices, _ = tiny.max_plan(recognizer.model, (bits, 8))
    weight = canonical_weight(module)
    [found] = rounding_pass.round_site(weight, [choices["lm_head"]])
    wrong = found.dequantize() - weight
    decibels = -10 * math.log10(float(wrong.square().mean() / weight.square().mean()))
    assert 6 * bits - 8 < decibels < 6 * bits + 6
