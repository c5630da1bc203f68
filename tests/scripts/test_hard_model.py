"""The rescaled model computes what its source does, with outliers in the layers asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import hard_model  # noqa: E402

from stablequant import InputError  # noqa: E402
from stablequant.models.checkpoint import read  # noqa: E402

LAYERS = (1, 2)
REACH = 20.0


@pytest.fixture(scope="module", params=["base", "large"])
def source(request, tmp_path_factory):
    return read.load(str(tiny.save(tmp_path_factory.mktemp("source"), form=request.param)))


@pytest.fixture(scope="module")
def outputs(source):
    return hard_model.extractor_outputs(source, [tiny.wave(seed) for seed in range(3)])


def changes(source, outputs):
    return [hard_model.choose(source.model, outputs, layer, 2, REACH) for layer in LAYERS]


def test_outliers_have_the_size_asked_for(source, outputs, tmp_path):
    hard_model.write(source, changes(source, outputs), str(tmp_path))
    after = hard_model.extractor_outputs(read.load(str(tmp_path)), [tiny.wave(seed) for seed in range(3)])
    for layer in range(6):
        grown = float(after[layer].max() / outputs[layer].max())
        assert grown == pytest.approx(REACH if layer in LAYERS else 1, rel=0.5)  # GELU is no ReLU near 0


def test_with_relu_the_function_is_exactly_the_same(source, outputs, tmp_path):
    hard_model.write(source, changes(source, outputs), str(tmp_path))
    changed = read.load(str(tmp_path))
    for recognizer in (source, changed):
        for layer in hard_model.conv_layers(recognizer.model):
            layer.activation = torch.nn.ReLU()
    try:
        assert tiny.relative(tiny.logits(changed, tiny.wave(7)), tiny.logits(source, tiny.wave(7))) < 1e-4
    finally:
        for layer in hard_model.conv_layers(source.model):
            layer.activation = torch.nn.GELU()


def test_the_channels_chosen_are_the_least_read(source, outputs):
    found = hard_model.choose(source.model, outputs, 1, 2, REACH)
    following = hard_model.conv_layers(source.model)[2].conv.weight
    power = (outputs[1].square().mean(1) * following.square().sum((0, 2))).detach()
    on = (outputs[1] > hard_model.FIRES).float().mean(1) >= hard_model.LEAST_ON
    assert sorted(power[list(found.channels)].tolist()) == pytest.approx(sorted(power[on].tolist())[:2])
    assert found == hard_model.choose(source.model, outputs, 1, 2, REACH)


def test_more_channels_than_are_on(source, outputs):
    with pytest.raises(InputError, match="ask for fewer"):
        hard_model.choose(source.model, outputs, 1, 33, REACH)


def test_command(float_folder, speech, tmp_path, capsys):
    out = str(tmp_path / "hard")
    hard_model.main([str(float_folder), out, "--data", str(speech), "--channels", "1", "--layers", "1"])
    account = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [layer["layer"] for layer in account["layers"]] == [1]
    assert account["relative_logit_difference"] < 0.2
    assert read.load(out).scheme == "float32"
