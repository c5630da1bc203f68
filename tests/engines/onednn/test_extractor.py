"""The fused extractor against the same integer modules run one by one, and its float first layer against float64."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from stablequant.engines.onednn import extractor
from stablequant.engines.onednn.extractor import fuse

# Codes of a layer differ by one where a value lies on the border of two steps to the rounding of float32; one step is
# up to 1/255 of the range. That is what the fused and the unfused extractor may differ by, at few places.
BOUND = {8: 5e-3, 6: 2e-2}
EXTRACTORS = [("wav2vec2", "base"), ("wav2vec2", "base-bias"), ("wav2vec2", "large"), ("data2vec-audio", "base")]
EXTRACTORS += [("hubert", "base"), ("wavlm", "large")]
every_extractor = pytest.mark.parametrize(("family", "form"), EXTRACTORS, ids=["-".join(each) for each in EXTRACTORS])


def integer(family="wav2vec2", form="base", bits=(8, 8)):
    model = tiny.prepared(family, form)
    choices, weights = tiny.max_plan(model, bits, waves=[tiny.wave(0)])
    return tiny.integer(model, choices, weights)


def both(model):
    """The extractor as it is and fused."""
    fused = copy.deepcopy(model)
    assert fuse(fused) is None
    return model.base_model.feature_extractor, fused.base_model.feature_extractor


@pytest.mark.parametrize("bits", [(8, 8), (6, 6)], ids=["w8a8", "w6a6"])
@every_extractor
def test_fused_equals_module_by_module(family, form, bits):
    plain, fused = both(integer(family, form, bits))
    for samples in (400, 719, 720, 30_011):  # one frame, one and two frames, several chunks
        x = torch.from_numpy(tiny.wave(5, samples))[None]
        expected, found = plain(x), fused(x)
        assert found.shape == expected.shape
        assert tiny.relative(found, expected) <= BOUND[bits[1]]
        assert ((found - expected).abs() > 1e-5 * expected.abs().max()).float().mean() < 0.5


@pytest.mark.parametrize("count", [1, 6])
@every_extractor
def test_fused_equals_module_by_module_on_mid_rise_grids(family, form, count):
    model = tiny.prepared(family, form)
    choices, weights = tiny.max_plan(model, waves=[tiny.wave(0)])
    first = [name for name in choices if "conv_layers" in name][:count]
    choices |= {name: replace(choices[name], mid_rise=True) for name in first}
    plain, fused = both(tiny.integer(model, choices, weights))
    x = torch.from_numpy(tiny.wave(5, 30_011))[None]
    assert tiny.relative(fused(x), plain(x)) <= BOUND[8]


@every_extractor
def test_a_batch_equals_its_utterances_one_by_one(family, form):
    model = integer(family, form)
    fuse(model)
    x = torch.from_numpy(tiny.wave(5, 8000)).view(2, 4000)
    together, alone = model(x).logits, torch.cat([model(each[None]).logits for each in x])
    features = model.base_model.feature_extractor
    assert torch.equal(features(x), torch.cat([features(each[None]) for each in x]))
    assert tiny.relative(together, alone) <= 1e-2  # the float rest may round otherwise for another batch


@every_extractor
def test_chunks_change_nothing(family, form, monkeypatch):
    model = integer(family, form)
    fuse(model)
    x = torch.from_numpy(tiny.wave(5, 20_000))[None]
    whole = model.base_model.feature_extractor(x)
    for frames in (64, 100_000):
        monkeypatch.setattr(extractor, "CHUNK", frames * 32)
        assert tiny.relative(model.base_model.feature_extractor(x), whole) <= BOUND[8]


@pytest.mark.parametrize("kind", ["noise", "an offset", "very quiet", "loud", "silence"])
def test_the_folded_group_norm_is_that_of_float64(kind):
    model = integer("wav2vec2", "base-bias")
    layers = list(model.wav2vec2.feature_extractor.conv_layers)
    wave = torch.from_numpy(tiny.wave(2, 6000))
    wave = {"noise": wave, "an offset": wave + 3, "very quiet": wave * 1e-4, "loud": wave * 1e3, "silence": wave * 0}[
        kind
    ]
    first, norm, second = layers[0].conv, layers[0].layer_norm, layers[1].conv
    exact = F.conv1d(wave.double()[None, None], first.weight.double(), first.bias.double(), stride=first.stride)
    exact = F.gelu(F.group_norm(exact, norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps))[0].T
    scale, zero_point = second.input.point
    steps = exact / scale + zero_point
    windows = extractor._windows(first, wave)
    codes = extractor._group_normed(layers[0], windows)(windows, second, len(windows) + 3)
    assert codes.shape == (len(steps) + 3, 32)
    assert (codes[:-3].double() - steps.clamp(0, 255)).abs().max() <= 0.5 + 0.01


@every_extractor
def test_segments_change_nothing(family, form, monkeypatch):
    model = integer(family, form)
    fuse(model)
    x = torch.from_numpy(tiny.wave(5, 20_003))[None]
    whole = model.base_model.feature_extractor(x)
    for frames in (1, 7, 16, whole.shape[-1]):
        monkeypatch.setattr(extractor, "SEGMENT", frames)
        assert tiny.relative(model.base_model.feature_extractor(x), whole) <= BOUND[8]


def test_fused_reads_a_waveform_that_is_a_slice():
    _, fused = both(integer())
    x = torch.from_numpy(tiny.wave(5, 9000))
    assert torch.equal(fused(x[None, ::2]), fused(x[::2].clone()[None]))
    assert torch.equal(fused(x[None, 1000:5000]), fused(x[1000:5000].clone()[None]))


def test_fused_runs_where_gradients_are_on():
    model = integer()
    model.wav2vec2.feature_extractor.conv_layers[0].requires_grad_(True)
    fuse(model)
    x = torch.from_numpy(tiny.wave(5))[None]
    with torch.enable_grad():
        assert model(x).logits.shape[-1] == len(tiny.VOCABULARY)


def changed(change, form="base"):
    model = integer("wav2vec2", form)
    change(model.wav2vec2.feature_extractor.conv_layers)
    return fuse(model)


def test_it_says_why_not():
    assert changed(lambda layers: None) is None
    assert "Tanh is not GELU" in changed(lambda layers: setattr(layers[2], "activation", nn.Tanh()))
    assert "GELU" in changed(lambda layers: setattr(layers[2], "activation", nn.GELU(approximate="tanh")))
    assert "not every other" in changed(lambda layers: setattr(layers[3], "conv", nn.Conv1d(32, 32, 3, stride=2)))
    assert "first convolution" in changed(lambda layers: setattr(layers[0], "conv", nn.Conv1d(1, 32, 10, padding=1)))
    assert "first convolution" in changed(lambda layers: setattr(layers[0], "conv", nn.Conv1d(2, 32, 10)))
    assert "group norm" in changed(lambda layers: setattr(layers[0], "layer_norm", nn.GroupNorm(4, 32)))
    assert "group norm" in changed(lambda layers: setattr(layers[2], "layer_norm", nn.LayerNorm(32)))
    assert "norms" in changed(lambda layers: setattr(layers[2], "layer_norm", nn.Identity()), "large")
    assert "feature extractor" in fuse(nn.Linear(2, 2))


def test_a_model_that_is_not_fused_is_left_as_it_was():
    model = integer()
    model.wav2vec2.feature_extractor.conv_layers[2].activation = nn.Tanh()
    fuse(model)
    assert "forward" not in vars(model.wav2vec2.feature_extractor)


def test_a_float_model_is_not_fused():
    assert "integer" in fuse(tiny.prepared())
