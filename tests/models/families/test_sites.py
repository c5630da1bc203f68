import pytest
import tiny
import torch
from torch import nn

from stablequant.models.families.sites import find_sites
from stablequant.quantization.plan.site import canonical_weight, layers_of

every_model = pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)


@every_model
def test_sites_are_listed_in_the_order_of_the_forward_pass(family, form):
    model = tiny.prepared(family, form)
    found = find_sites(model)
    called = []
    for site in found:
        model.get_submodule(site.name).register_forward_pre_hook(lambda *_, layer=site.layer: called.append(layer))
    with torch.inference_mode():
        model(torch.from_numpy(tiny.wave(0))[None])
    assert list(dict.fromkeys(called)) == list(layers_of(found))


@every_model
def test_every_linear_and_convolution_is_a_site_and_only_these_stay_in_float(family, form):
    model = tiny.prepared(family, form)
    found = find_sites(model)
    matrices = {name.removesuffix(".weight") for name, p in model.named_parameters() if p.ndim >= 2}
    float_only = {"wav2vec2.feature_extractor.conv_layers.0.conv".replace("wav2vec2", model.base_model_prefix)}
    gates = {site.name for site in found if site.name.endswith("gru_rel_pos_linear")}
    # Neither is the weight of a module: the mask of pretraining and WavLM's gate.
    others = {name for name in matrices if name.endswith(("masked_spec_embed", "gru_rel_pos_const"))}
    assert {site.name for site in found} == matrices - others
    tables = {site.name for site in found if site.name.endswith("rel_attn_embed")}
    assert {site.name for site in found if site.reason} == float_only | gates | tables
    assert bool(tables) == (family == "wavlm")
    assert bool(gates) == (family == "wavlm")


def test_layers_are_what_stablequant_probes():
    found = find_sites(tiny.prepared("wav2vec2", "attn-adapter", add_adapter=True, output_hidden_size=32))
    assert layers_of(found) == (
        *(f"wav2vec2.feature_extractor.conv_layers.{i}" for i in range(7)),
        "wav2vec2.feature_projection",
        "wav2vec2.encoder.pos_conv_embed",
        "wav2vec2.encoder.layers.0",
        "wav2vec2.encoder.layers.1",
        *(f"wav2vec2.adapter.layers.{i}" for i in range(3)),
        "lm_head",
    )


def test_a_grouped_convolution_counts_the_inputs_of_one_group():
    conv = nn.Conv1d(12, 24, 5, stride=2, padding=1, groups=3)
    (site,) = find_sites(nn.ModuleDict({"conv": conv}))
    assert (site.kind, site.in_channels, site.groups, site.kernel, site.stride, site.padding, site.reason) == (
        "grouped conv",
        4,
        3,
        5,
        2,
        1,
        None,
    )
    assert site.macs_per_output_frame == conv.weight.numel()
    assert canonical_weight(conv).shape == (24, 20)


def test_multiply_adds_are_those_of_the_weights():
    model = tiny.prepared()
    for site in find_sites(model):
        assert site.macs_per_output_frame == model.get_submodule(site.name).weight.numel()


@pytest.mark.parametrize(
    "settings", [{"padding": "same"}, {"padding": "valid"}, {"padding": 2, "padding_mode": "reflect"}]
)
def test_a_convolution_with_unknown_padding_stays_in_float_and_says_so(settings):
    (site,) = find_sites(nn.ModuleDict({"conv": nn.Conv1d(4, 4, 9, **settings)}))
    assert site.reason.startswith("padding ")
    assert settings.get("padding_mode", "zeros") in site.reason


def test_only_a_module_with_a_weight_has_a_canonical_one():
    with pytest.raises(TypeError, match="Weightless has no weight tensor"):
        canonical_weight(type("Weightless", (nn.Module,), {"weight": None})())
