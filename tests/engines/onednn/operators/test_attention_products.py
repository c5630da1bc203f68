"""Every form of attention against its definition in float64, for the shapes and masks that models ask for."""

import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stablequant.engines.onednn.operators import attention_blocks, attention_products
from stablequant.foundation.errors import InputError

# Relative, Euclidean. In bfloat16 scores and probabilities are rounded to 8 bits in "blocks", for scores up to 4 here.
BOUND = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}
forms = pytest.mark.parametrize("form", attention_products.FORMS)
formats = pytest.mark.parametrize("number_format", BOUND, ids=["float32", "bfloat16"])


def definition(q, k, v, heads, added=None):
    """float64 attention of q (B, Tq, C), k and v (B, Tk, C); 0 where no key is seen."""
    q, k, v = (x.double().view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    scores = scores if added is None else scores + added
    weights = torch.softmax(scores, -1).masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    return (weights @ v).transpose(1, 2).flatten(2)


def is_near(found, expected, number_format):
    return (found.double() - expected).norm() <= BOUND[number_format] * expected.norm()  # both may be 0


def relative_bias(gate, bias):
    """gate (B, heads, T) * bias (heads, 2 T - 1) as numbers for all pairs (B, heads, T, T)."""
    frames = gate.shape[2]
    distances = torch.arange(frames)[None] - torch.arange(frames)[:, None]
    return gate[..., None].double() * bias[:, distances + frames - 1].double()


def tensors(seed, number_format, batch, queries, keys, channels):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, queries, channels, generator=generator).to(number_format)
    joined = torch.randn(batch, keys, 2 * channels, generator=generator).to(number_format)
    return q, *joined.split(channels, 2)


def use(monkeypatch, form, scores=attention_blocks.SCORES, many=1):
    monkeypatch.setattr(attention_products, "form", lambda: form)
    monkeypatch.setattr(attention_blocks, "SCORES", scores)
    monkeypatch.setattr(attention_products, "MANY", many)  # keys from which there are blocks


@forms
@formats
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 100),
    batch=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    heads=st.integers(1, 4),
    width=st.sampled_from([8, 20, 64]),
    scores=st.sampled_from([1, 50, 500, 1 << 20]),
    many=st.sampled_from([1, 64]),
    mask=st.sampled_from(["none", "keys", "pairs", "numbers"]),
)
def test_attention_is_what_its_definition_says(
    form, number_format, seed, batch, queries, keys, heads, width, scores, many, mask
):
    q, k, v = tensors(seed, number_format, batch, queries, keys, heads * width)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, form, scores, many)
        given_mask, added = masks(mask, seed, number_format, batch, queries, keys)
        found = attention_products.attend(q, k, v, heads, given_mask)
        again = attention_products.attend(q, k, v, heads, given_mask)
    assert (found.shape, found.dtype) == (q.shape, number_format)
    assert torch.equal(found, again)
    assert is_near(found, definition(q, k, v, heads, added), number_format)


def masks(kind, seed, number_format, batch, queries, keys):
    """A mask as a caller gives it, and what it adds to the scores."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "none":
        return None, None
    if kind == "numbers":
        numbers = torch.randn(queries, keys, generator=generator).to(number_format)
        return numbers, numbers.double()
    seen = torch.rand(batch, 1, 1 if kind == "keys" else queries, keys, generator=generator) < 0.7
    seen = seen.expand(-1, -1, queries, -1)  # some rows see nothing
    return seen, torch.zeros(seen.shape).masked_fill(~seen, -math.inf).double()


@forms
@formats
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100),
    batch=st.integers(1, 2),
    frames=st.integers(1, 40),
    heads=st.integers(1, 4),
    scores=st.sampled_from([1, 50, 40 * 40, 1 << 20]),
    some_keys=st.booleans(),
)
def test_a_relative_bias_is_added_to_the_scores(form, number_format, seed, batch, frames, heads, scores, some_keys):
    q, k, v = tensors(seed, number_format, batch, frames, frames, heads * 16)
    generator = torch.Generator().manual_seed(seed)
    gate = torch.rand(batch, frames, heads, generator=generator).transpose(1, 2)
    bias = torch.randn(heads, 2 * frames - 1, generator=generator)
    keep = torch.rand(batch, frames, generator=generator) < 0.7 if some_keys else None
    added = relative_bias(gate, bias)
    if keep is not None:
        added = added.masked_fill(~keep[:, None, None], -math.inf)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, form, scores)
        monkeypatch.setattr(attention_products, "BIASES", scores)
        found = attention_products.attend_relative(q, k, v, gate, bias, keep)
    assert is_near(found, definition(q, k, v, heads, added), number_format)


@forms
@pytest.mark.parametrize("size", [15.0, 60.0, 1e4])
def test_scores_may_be_large(form, size, monkeypatch):
    q, k, v = tensors(0, torch.float32, 1, 30, 30, 32)
    use(monkeypatch, form)
    expected = definition(size * q, k, v, 2)
    assert (attention_products.attend(size * q, k, v, 2).double() - expected).norm() <= 1e-7 * size * expected.norm()


@forms
@formats
def test_rows_hidden_by_the_lowest_number_are_even_averages(form, number_format, monkeypatch):
    q, k, v = tensors(0, number_format, 1, 3, 5, 32)
    use(monkeypatch, form)
    mask = torch.full((1, 1, 3, 5), torch.finfo(number_format).min, dtype=number_format)
    average = v.double().mean(1, keepdim=True).expand(1, 3, 32)
    assert is_near(attention_products.attend(q, k, v, 2, mask), average, number_format)


def test_blocks_do_not_hide_what_is_no_number(monkeypatch):
    q, k, v = tensors(0, torch.float32, 1, 4, 5, 32)
    use(monkeypatch, "blocks")
    q[0, 1] = torch.nan
    assert attention_products.attend(q, k, v, 2).isnan().any(-1).tolist() == [[False, True, False, False]]


@forms
def test_an_utterance_is_computed_alike_alone_and_in_a_batch(form, monkeypatch):
    q, k, v = tensors(0, torch.bfloat16, 3, 50, 70, 64)
    use(monkeypatch, form)
    together = attention_products.attend(q, k, v, 4)
    for number in range(3):
        alone = attention_products.attend(*(x[number : number + 1] for x in (q, k, v)), 4)
        assert tiny.relative(together[number : number + 1], alone) <= (0 if form == "blocks" else 5e-3)


@pytest.fixture
def fresh(monkeypatch):
    """The choices are made anew, and forgotten afterwards."""
    for name in (attention_products.VARIABLE, *attention_products.ISA_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for choice in (attention_products.form, attention_products.number_format):
        choice.cache_clear()
    yield monkeypatch
    for choice in (attention_products.form, attention_products.number_format):
        choice.cache_clear()


AMX = {"amx_bf16": True, "avx512_bf16": True}


@pytest.mark.parametrize(
    ("able", "held_to", "expected"),
    [
        (AMX, None, ("fused", torch.bfloat16)),
        (AMX, "AVX512_CORE_BF16", ("blocks", torch.bfloat16)),
        (AMX, "avx2", ("fused", torch.float32)),
        ({"avx512_bf16": True}, None, ("blocks", torch.bfloat16)),
        ({"avx512_bf16": True}, "ALL", ("blocks", torch.bfloat16)),
        ({"avx512_bf16": True}, "AVX512_CORE_VNNI", ("fused", torch.float32)),
        ({"avx512_vnni": True}, None, ("fused", torch.float32)),
        ({}, None, ("fused", torch.float32)),
    ],
)
def test_the_form_follows_the_instruction_sets(able, held_to, expected, fresh):
    fresh.setattr(torch.cpu, "get_capabilities", lambda: able)
    if held_to is not None:
        fresh.setenv("ONEDNN_MAX_CPU_ISA", held_to)
    assert (attention_products.form(), attention_products.number_format()) == expected


@forms
def test_the_environment_fixes_the_form(form, fresh):
    fresh.setenv(attention_products.VARIABLE, form)
    assert attention_products.form() == form


def test_another_form_is_refused(fresh):
    fresh.setenv(attention_products.VARIABLE, "quick")
    with pytest.raises(InputError, match="STABLEQUANT_ATTENTION is 'quick'; set it to fused or blocks"):
        attention_products.form()
