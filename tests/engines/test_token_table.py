"""A table of tokens that is quantized with the product that shares its weight: its rows, its file, its memory."""

import copy
import itertools

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSpeechSeq2Seq

from stablequant.engines import onednn, quantized_site
from stablequant.engines.simulation import simulate
from stablequant.models import checkpoint
from stablequant.models.families.base import families
from stablequant.quantization.numerics.weight_grid import WeightFormat
from stablequant.quantization.plan.choice import Quantized, input_choice
from stablequant.quantization.plan.plan import Plan
from stablequant.quantization.plan.site import canonical_weight
from stablequant.quantization.search import rounding_pass
from stablequant.quantization.search.choices import weight_choice
from stablequant.quantization.weight_formats.base import parse

TABLE, PRODUCT = "model.decoder.embed_tokens", "proj_out"
FORMATS = ("w8", "w6", "w4", "w4g16", "w4g16z", "w3", "w3g16z", "w3g8", "w2", "w2g16", "w2g16z", "w2g8z")
SPARSE = ("w8-2:4", "w4g16z-2:4", "w3g16-1:4", "w2g8z-4:8")
every_format = pytest.mark.parametrize("text", FORMATS)


class Tied(nn.Module):
    """A table and a product of one weight."""

    def __init__(self, rows, columns):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.product = nn.Embedding(rows, columns), nn.Linear(columns, rows, bias=False)
        self.product.weight = self.table.weight

    def forward(self, ids):
        return self.product(self.table(ids))


def choice_of(module, text):
    site = tiny.site_of(module)
    weight = weight_choice(site, parse(text), "max", "nearest")
    return Quantized("m", "linear", weight, input_choice(-3.0, 3.0, 8, "max"))


def quantized(rows, columns, text):
    """(the model in float, choices, weights)"""
    model = Tied(rows, columns)
    choice = choice_of(model.product, text)
    [weight] = rounding_pass.round_site(canonical_weight(model.product), [choice])
    return model, {"product": choice}, {"product": weight}


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        *itertools.product(FORMATS, (20,), (32,)),
        *((text, *shape) for text in FORMATS for shape in ((7, 19), (5, 3), (1, 1))),
        *((text, *shape) for text in SPARSE for shape in ((20, 32), (7, 24), (1, 8))),
    ],
)
def test_a_row_is_that_of_the_dequantized_weight(text, rows, columns):
    model, choices, weights = quantized(rows, columns, text)
    quantized_site.convert(model, choices, weights)
    for ids in (torch.randint(rows, (2, 5)), torch.tensor(0), torch.arange(rows), torch.zeros(0, dtype=torch.int64)):
        found = model.table(ids)
        assert found.shape == (*ids.shape, columns)
        assert torch.equal(found, weights["product"].dequantize()[ids])


@pytest.mark.parametrize("text", FORMATS + SPARSE)
def test_after_an_engine_took_over_the_rows_are_the_same(text):
    model, choices, weights = quantized(20, 32, text)
    lowered = onednn.lower(quantized_site.convert(model, choices, weights)).model
    assert torch.equal(lowered.table(torch.arange(20)), weights["product"].dequantize())


@every_format
def test_the_simulation_changes_both_and_gives_both_back(text):
    model, choices, weights = quantized(7, 19, text)
    ids, before = torch.arange(7), model.table.weight.clone()
    with torch.inference_mode():
        plain = model(ids)
        with simulate(model, choices, weights):
            assert torch.equal(model.table(ids), weights["product"].dequantize())
            inside = model(ids)
        assert torch.equal(model(ids), plain)
    assert model.product.weight is model.table.weight
    assert torch.equal(model.table.weight, before)
    with torch.inference_mode():
        assert tiny.relative(quantized_site.convert(model, choices, weights)(ids), inside) <= 1e-6


def test_a_simulation_that_fails_gives_both_back():
    model, choices, weights = quantized(7, 19, "w8")
    with pytest.raises(KeyboardInterrupt), simulate(model, choices, weights):
        raise KeyboardInterrupt
    assert model.product.weight is model.table.weight
    assert not [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]


# ---- take, of every format


@st.composite
def taken(draw):
    """(format, a weight in it, rows)"""
    text = draw(st.sampled_from(("w8", "w5", "w4", "w4g3z", "w4g16", "w3", "w3g5", "w3g8z", "w2", "w2g4z", "w2g7")))
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    module = nn.Linear(columns, rows)
    module.weight = nn.Parameter(torch.randn(rows, columns, generator=generator))
    [weight] = rounding_pass.round_site(canonical_weight(module), [choice_of(module, text)])
    chosen = draw(st.lists(st.integers(0, rows - 1), max_size=15))
    return weight.format.stored, weight, torch.tensor(chosen, dtype=torch.int64)


@given(taken())
def test_take_is_some_rows_of_load(case):
    format: WeightFormat = case[0]
    _, weight, rows = case
    shape = weight.codes.shape
    stored = format.store(weight, shape)
    found, whole = format.take(stored, shape, rows), format.load(stored, shape)
    assert torch.equal(found.codes, whole.codes[rows])
    assert torch.equal(found.dequantize(), whole.dequantize()[rows])
    assert torch.equal(whole.dequantize(), weight.dequantize())


# ---- in a file and in memory


def plan_for(model, bits):
    choices, weights = tiny.max_plan(model, bits)
    about = {"recordings": 1, "seconds": 1.0, "float_passes": 1.0}
    return Plan(f"w{bits[0]}a{bits[1]}", "max", choices, score={"unit": "%"}, calibration=about), weights


@pytest.fixture(scope="module", params=[(8, 8), (4, 8), (3, 8), (2, 8)], ids=["w8a8", "w4a8", "w3a8", "w2a8"])
def written(request, tmp_path_factory):
    """(folder of a quantized Whisper, its weights)"""
    folder = tmp_path_factory.mktemp("whisper")
    recognizer = tiny.recognizer("whisper", "multilingual", tmp_path=folder)
    plan, weights = plan_for(recognizer.model, request.param)
    checkpoint.write(recognizer, plan, weights, folder / "q")
    return folder / "q", weights


def test_the_file_has_the_codes_once(written):
    folder, weights = written
    stored = load_file(folder / "model.safetensors")
    rows, columns = tiny.WHISPER["vocab_size"], tiny.WHISPER["d_model"]
    assert not [name for name in stored if name.startswith(TABLE)]
    assert f"{PRODUCT}.codes" in stored
    of_the_product = sum(each.nbytes for name, each in stored.items() if name.startswith(f"{PRODUCT}."))
    format = weights[PRODUCT].format.stored
    assert of_the_product == format.bytes(rows, columns) + 4 * rows + 8, "codes, bias, and the grid of the input"
    assert not [
        name for name, each in stored.items() if each.dtype.is_floating_point and each.numel() >= rows * columns
    ]


def test_saved_again_it_has_the_same_bytes(written, tmp_path):
    folder, _ = written
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    once_more = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "again")
    with torch.inference_mode():
        assert torch.equal(tiny.forward(once_more, tiny.wave(3)), tiny.forward(model, tiny.wave(3)))


def test_what_is_read_has_the_rows_that_were_rounded(written):
    folder, weights = written
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    ids = torch.arange(tiny.WHISPER["vocab_size"])
    assert torch.equal(model.get_submodule(TABLE)(ids), weights[PRODUCT].dequantize())
    assert model.get_output_embeddings() is model.get_submodule(PRODUCT)
    assert not list(model.get_submodule(TABLE).parameters())
    assert not list(model.get_submodule(TABLE).buffers())


@pytest.mark.parametrize("copied", [False, True], ids=["loaded", "copied"])
def test_the_codes_are_in_memory_once(written, copied):
    """Also when an engine has replaced the product, and of a copy its own."""
    model = AutoModelForSpeechSeq2Seq.from_pretrained(written[0])
    original = model.get_submodule(PRODUCT).tensors()
    model = copy.deepcopy(model) if copied else model
    [site] = model.get_submodule(TABLE)._site
    product = model.get_submodule(PRODUCT).tensors()
    for name in site.form.format.empty(torch.Size([1, 1])):
        tensor = site.get_buffer(name)
        assert tensor.data_ptr() == product[name].data_ptr(), name
        assert (tensor.data_ptr() == original[name].data_ptr()) == (not copied), name


def test_the_sites_of_a_whisper_are_all_but_the_tables():
    """Positions are added, and tokens are looked up in the codes of the product."""
    sites = families()["whisper"].sites(tiny.prepared("whisper", "english"))
    floats = {site.name for site in sites if site.reason is not None}
    assert floats == {TABLE, "model.encoder.embed_positions", "model.decoder.embed_positions"}
    [product] = [site for site in sites if site.name == PRODUCT]
    assert product.layer == TABLE, "computed where its rows are first looked up"
