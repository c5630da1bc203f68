from dataclasses import replace

import pytest
import tiny

from stablequant.models.checkpoint import histograms
from stablequant.quantization.plan.plan import read_plan
from stablequant.quantization.weight_formats.base import weight_format
from stablequant.report.layers import layers, seen, short


@pytest.fixture
def plan(calibrated):
    return read_plan(calibrated[0] / "plan.json")


def test_every_layer_once_the_extractor_first(plan):
    found = layers(plan, {"lm_head": 10})
    names = [layer.name for layer in found]
    assert names[:3] == ["conv_layers.0", "conv_layers.1", "conv_layers.2"]
    assert names[7:] == ["feature_projection", "pos_conv_embed", "layers.0", "layers.1", "lm_head"]
    assert (found[0].methods, found[0].bits, found[0].probe_score) == ("float", "float", None)
    assert found[0].why.startswith("reads the waveform")
    assert (found[1].methods, found[1].bits, found[1].selected) == ("mse", "w8a8", True)
    assert [layer.bytes for layer in found] == [None] * 11 + [10]


def test_a_layer_is_as_exact_as_its_weakest_site_and_names_all_its_bits(plan):
    name = "wav2vec2.encoder.layers.0.attention.q_proj"
    site = tiny.on_input(plan.sites[name], clip_percent=0.5)
    weight = replace(site.weight, format=weight_format(4))
    worse = replace(site, weight=weight, measured=replace(site.measured, input_sqnr_db=1.0))
    found = next(
        each for each in layers(replace(plan, sites=plan.sites | {name: worse}), {}) if each.name == "layers.0"
    )
    assert (found.input_sqnr_db, found.bits, found.removed_percent) == (1.0, "w4a8, w8a8", 0.5)


def test_sites_that_read_the_same_are_shown_once(plan, calibrated):
    found = seen(plan, histograms.read(calibrated[0]))
    sites = [site for each in found for site in each.sites]
    assert sorted(sites) == sorted(plan.quantized())
    together = [tuple(site.rpartition(".")[2] for site in each.sites) for each in found if len(each.sites) > 1]
    assert [sorted(each) for each in together] == [["k_proj", "q_proj", "v_proj"]] * 2


def test_sites_without_a_histogram_are_left_out(plan):
    assert seen(plan, {}) == []


def test_short_names_stay_different(plan):
    names = {choice.layer for choice in plan.sites.values()} | {"wav2vec2.adapter.layers.0", "lm_head"}
    assert len({short(name) for name in names}) == len(names)
    assert short("lm_head") == "lm_head"
