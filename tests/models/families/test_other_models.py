"""Models of families that stablequant does not load yet: their structure is answered with reasons, not errors."""

import pytest
import torch
import transformers
from torch import nn

from stablequant.engines import onednn
from stablequant.models.families.sites import find_sites

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def whisper():
    layers = {
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 64))
    }
    tokens = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        d_model=32, num_mel_bins=8, max_source_positions=50, max_target_positions=20, **layers, **tokens
    )
    return transformers.WhisperForConditionalGeneration(config)


def wav2vec2_bert():
    config = transformers.Wav2Vec2BertConfig(**SIZES, feature_projection_input_dim=16, vocab_size=40)
    return transformers.Wav2Vec2BertForCTC(config)


def parakeet():
    encoder = transformers.ParakeetEncoderConfig(**SIZES, num_mel_bins=16, subsampling_conv_channels=8)
    return transformers.ParakeetForCTC(transformers.ParakeetCTCConfig(vocab_size=40, encoder_config=encoder.to_dict()))


MODELS = {each.__name__: each for each in (whisper, wav2vec2_bert, parakeet)}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def test_every_matrix_of_a_module_is_a_site(model):
    sites = {site.name: site for site in find_sites(model)}
    matrices = {
        name
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.ndim > 1
    }
    assert set(sites) == matrices
    for name, site in sites.items():
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear | nn.Conv1d):
            assert site.reason
        assert "waveform" not in (site.reason or "")


def test_the_engine_gives_reasons_for_what_it_does_not_know(model):
    before = {name: module.forward for name, module in model.named_modules()}
    reasons = onednn.lower(model).reasons
    assert reasons
    assert all(reasons.values())
    assert {name: module.forward for name, module in model.named_modules()} == before
    assert not onednn.can_batch(model)


def test_a_head_that_shares_its_weight_with_a_table_is_quantized_and_the_table_reads_its_codes():
    model = whisper()
    assert model.proj_out.weight is model.get_input_embeddings().weight
    sites = {site.name: site for site in find_sites(model)}
    assert sites["proj_out"].reason is None
    assert sites["proj_out"].layer == "model.decoder.embed_tokens"  # where the codes are read first
    assert "looked up in the codes of proj_out" in sites["model.decoder.embed_tokens"].reason


def test_layers_that_share_their_weight_otherwise_stay_in_float():
    model = whisper()
    layers = model.model.decoder.layers
    layers[1].fc1.weight = layers[0].fc1.weight
    sites = {site.name: site for site in find_sites(model)}
    assert "shares its weight" in sites["model.decoder.layers.0.fc1"].reason
    assert "shares its weight" in sites["model.decoder.layers.1.fc1"].reason


def test_sites_that_share_an_input_read_one_tensor():
    model, seen = whisper(), {}
    sites = [site for site in find_sites(model) if site.reads]
    assert any(site.reads.endswith("encoder_attn") for site in sites)
    for site in sites:
        model.get_submodule(site.name).register_forward_pre_hook(
            lambda _module, inputs, site=site: seen.setdefault(site.reads, []).append(inputs[0])
        )
    with torch.inference_mode():
        model(torch.randn(1, 8, 100), decoder_input_ids=torch.tensor([[1, 5, 6]]))
    assert set(seen) == {site.reads for site in sites}
    assert all(len({id(each) for each in tensors}) == 1 for tensors in seen.values())
