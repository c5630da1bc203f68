"""The fused encoder against the same integer modules run one by one, alone and with several utterances packed."""

import copy

import pytest
import tiny
import torch
from torch import nn

from stablequant.engines import onednn
from stablequant.engines.onednn import extractor, utterance_lengths
from stablequant.engines.onednn.operators import attention_products

every_model = pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
# Relative to the module-by-module path, whose attention is in float32. In float32 too, only codes on the border of two
# steps differ; in bfloat16 q, k, v are rounded to 8 bits of mantissa, and every later code may move.
BOUND = {torch.float32: 5e-3, torch.bfloat16: 3e-2}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def number_format(request, monkeypatch):
    monkeypatch.setattr(attention_products, "number_format", lambda: request.param)
    return request.param


def integer(family="wav2vec2", form="base", bits=(8, 8)):
    model = tiny.prepared(family, form)
    choices, weights = tiny.max_plan(model, bits, waves=[tiny.wave(0)])
    return tiny.integer(model, choices, weights)


def fused(model):
    twin = copy.deepcopy(model)
    assert onednn.lower(twin).reasons == {}
    return twin


def encoders(model, frames, batch=1):
    torch.manual_seed(frames)
    return model.base_model.encoder, torch.randn(batch, frames, model.config.hidden_size)


@every_model
def test_fused_equals_module_by_module(family, form, number_format):
    plain = integer(family, form)
    twin = fused(plain)
    for frames in (1, 2, 130, 300):  # below, at and above a block of queries
        slow, x = encoders(plain, frames)
        expected = slow(x.clone()).last_hidden_state
        found = twin.base_model.encoder(x.clone()).last_hidden_state
        assert found.shape == expected.shape
        assert tiny.relative(found, expected) <= BOUND[number_format]


@pytest.mark.parametrize("form", ["base", "large"])
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_fewer_bits_and_other_grids(family, form, monkeypatch):
    monkeypatch.setattr(attention_products, "number_format", lambda: torch.float32)
    plain = integer(family, form, bits=(6, 6))
    for layer in plain.base_model.encoder.layers:
        layer.attention.k_proj.input_scale.mul_(1.25)  # k no longer shares a product with q and v
        layer.attention.k_proj.prepare()
    slow, x = encoders(plain, 70)
    found = fused(plain).base_model.encoder(x.clone()).last_hidden_state
    assert tiny.relative(found, slow(x.clone()).last_hidden_state) <= 2e-2


@pytest.mark.parametrize("form", ["base", "large"])
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_a_mask_hides_what_it_hides_module_by_module(family, form, monkeypatch):
    monkeypatch.setattr(attention_products, "number_format", lambda: torch.float32)
    plain = integer(family, form)
    twin, (slow, x) = fused(plain), encoders(plain, 40, batch=2)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 25:] = False
    expected = slow(x.clone(), attention_mask=mask).last_hidden_state[mask]
    found = twin.base_model.encoder(x.clone(), attention_mask=mask).last_hidden_state[mask]
    assert tiny.relative(found, expected) <= BOUND[torch.float32]


@every_model
def test_packed_utterances_equal_themselves_alone(family, form, number_format):
    model = fused(integer(family, form))
    assert onednn.can_batch(model)
    waves = [torch.from_numpy(tiny.wave(seed, samples)) for seed, samples in enumerate((4000, 400, 9000, 2500))]
    together = onednn.batched_logits(model, waves)
    for wave, found in zip(waves, together, strict=True):
        with torch.inference_mode():
            alone = model(wave[None]).logits[0]
        assert found.shape == alone.shape
        assert tiny.relative(found, alone) <= BOUND[number_format]
    assert utterance_lengths.lengths() is None


@pytest.mark.parametrize("biases", [1, 50, 40 * 40, 3 * 40 * 40, 10**6])
def test_blocks_of_biases_change_nothing(biases, monkeypatch):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 40, 32)
    gate, bias = torch.rand(2, 4, 40), torch.randn(4, 79)
    distances = torch.arange(40)[None] - torch.arange(40)[:, None]
    scores = torch.einsum("bihd,bjhd->bhij", q.view(2, 40, 4, 8), k.view(2, 40, 4, 8)) / 8**0.5
    scores = scores + gate[..., None] * bias[:, distances + 39]
    expected = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v.view(2, 40, 4, 8)).reshape(2, 40, 32)
    monkeypatch.setattr(attention_products, "BIASES", biases)
    assert tiny.relative(attention_products.attend_relative(q, k, v, gate, bias), expected) <= 1e-6


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_a_model_whose_attention_is_watched_is_not_packed(family):
    model = fused(integer(family))
    handle = model.base_model.encoder.layers[1].attention.register_forward_hook(lambda *_: None)
    assert not onednn.can_batch(model)
    handle.remove()
    assert onednn.can_batch(model)


def test_packing_ends_when_the_model_fails():
    model = fused(integer())
    model.base_model.encoder.layers[1].forward = None
    with pytest.raises(TypeError):
        onednn.batched_logits(model, [torch.from_numpy(tiny.wave(0))])
    assert utterance_lengths.lengths() is None


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_hidden_states_and_attentions_are_those_of_the_modules(family):
    plain = integer(family)
    plain.set_attn_implementation("eager")
    twin = fused(plain)
    x = torch.from_numpy(tiny.wave(0))[None]
    for key in ("hidden_states", "attentions"):
        expected = plain(x, **{f"output_{key}": True})[key]
        found = twin(x, **{f"output_{key}": True})[key]
        assert len(found) == len(expected)  # WavLM gives no attentions
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            assert one is None or tiny.relative(one, other) <= BOUND[torch.bfloat16]


def test_a_fused_model_can_be_copied_and_filled_again():
    model, other = fused(integer()), integer()
    x = torch.from_numpy(tiny.wave(0))[None]
    before = model(x).logits
    assert torch.equal(copy.deepcopy(model)(x).logits, before)
    state = {k: v.flip(0) if k.endswith("q_proj.codes") else v for k, v in other.state_dict().items()}
    model.load_state_dict(state)
    after = model(x).logits
    assert not torch.equal(after, before)
    other.load_state_dict(state)
    assert tiny.relative(after, fused(other)(x).logits) == 0


def test_a_layer_of_another_structure_runs_as_it_is():
    model = integer()
    layers = model.base_model.encoder.layers
    layers[0].feed_forward.intermediate_act_fn = nn.ReLU()
    layers[1].attention.v_proj = nn.Linear(32, 32)
    twin = copy.deepcopy(model)
    assert onednn.lower(twin).reasons == {
        "encoder.layers.0": "the activation is not GELU",
        "encoder.layers.1": "not every projection is an integer module",
    }
    assert not onednn.can_batch(twin)
    extractor.fuse(model)
    x = torch.from_numpy(tiny.wave(0))[None]
    assert tiny.relative(twin(x).logits, model(x).logits) <= BOUND[torch.float32]


def test_there_is_nothing_to_fuse_without_an_encoder():
    assert set(onednn.lower(nn.Linear(2, 2)).reasons) == {"encoder", "feature_extractor"}
    assert not onednn.can_batch(nn.Linear(2, 2))


@pytest.mark.parametrize("form", ["base", "large"])
def test_lengths_that_round_alike_give_the_kernels_the_same_shapes(form, monkeypatch):
    model, shapes = fused(integer("wav2vec2", form)), []
    for name in ("linear", "linear_plus"):
        kernel = getattr(onednn.kernels, name)
        recorded = lambda x, *rest, kernel=kernel, **more: shapes.append(x.shape) or kernel(x, *rest, **more)  # noqa: E731
        monkeypatch.setattr(onednn.kernels, name, recorded)
    seen = []
    for frames in (178, 184):
        shapes.clear()
        model(torch.from_numpy(tiny.wave(0, 400 + 320 * (frames - 1) + frames))[None])
        seen.append(tuple(shapes))
    assert seen[0] == seen[1]
