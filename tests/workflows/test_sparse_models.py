"""`calibrate --sparsity` through the real command, and everything that reads what it writes."""

import contextlib
import json
import re
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from stablequant.engines.quantized_site import QuantizedSite, TableOf
from stablequant.engines.simulation import simulate
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint import read
from stablequant.models.checkpoint.stored import stored_weights
from stablequant.models.checkpoint.verify import checksums
from stablequant.quantization.plan.plan import read_plan
from stablequant.quantization.search.session import SearchSession
from stablequant.workflows.calibrate import calibrate

SITE = "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense"
CONV = "wav2vec2.feature_extractor.conv_layers.1.conv"
GROUPED = "wav2vec2.encoder.pos_conv_embed.conv"
FIRST = "wav2vec2.feature_extractor.conv_layers.0.conv"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory, float_folder, speech, shell):
    """(folder, what was printed) of a tiny model with 4-bit weights of which half are kept; not to be changed."""
    out = tmp_path_factory.mktemp("sparse") / "q"
    command = ("calibrate", float_folder, "--data", speech, "--out", out, "--scheme", "w4a8", "--sparsity", "2:4")
    done = shell(*command, "--threshold", "-1")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def damaged(sparse, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(sparse[0], tmp_path / "q")


def sites(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedSite)}


def test_it_is_printed_and_verified(sparse, shell):
    out, printed = sparse
    assert "sparsity 2:4 at 20 of the 21 quantized sites" in printed
    assert shell("verify", out).stdout == f"{out}: ok\n"
    table = shell("inspect", out).stdout
    assert re.search(rf"{SITE} +w4g64z-2:4a8 ", table)
    assert re.search(rf"{GROUPED} +w4g64za8 ", table)
    assert "2:4: 2 of every 4 are kept, the others are zero" in table
    assert ", sparsity 2:4 |" in (out / "README.md").read_text()


def test_the_plan_says_what_is_kept_and_what_that_takes(sparse):
    out, _ = sparse
    data = json.loads((out / "plan.json").read_text())["sites"]
    assert data[SITE]["weight_sparsity"] == data[CONV]["weight_sparsity"] == "2:4"
    assert "weight_sparsity" not in data[GROUPED]
    assert data[FIRST]["reason"].startswith("reads the waveform")
    assert data[SITE]["rounding"] == "compensated"
    # 48 rows of 32 inputs: 16 kept codes of 4 bits, 16 positions of 2, a scale, a step and an offset
    assert data[SITE]["weight_bytes"] == 48 * (8 + 4 + 4 + 1 + 1)
    stored = load_file(out / "model.safetensors")
    names = ("codes", "positions", "steps", "offsets", "scales")
    assert sum(stored[f"{SITE}.{name}"].nbytes for name in names) == data[SITE]["weight_bytes"]


def test_it_loads_in_transformers_with_two_of_every_four_weights(sparse):
    model = AutoModelForCTC.from_pretrained(sparse[0])
    found = sites(model)
    for name in (SITE, CONV):
        codes = found[name].weight_codes().flatten(1)
        assert (codes.view(len(codes), -1, 4).count_nonzero(-1) <= 2).all()
        assert codes.count_nonzero() > 0.4 * codes.numel()
    assert found[GROUPED].weight_codes().count_nonzero() > 0.7 * found[GROUPED].weight_codes().numel()


def test_the_engine_computes_what_the_simulation_of_the_written_weights_does(sparse, float_folder):
    recognizer, integer = read.load(str(float_folder)), read.load(str(sparse[0]))
    choices = read_plan(sparse[0]).quantized()
    weights = stored_weights(sparse[0], recognizer.model, choices)
    inputs = tiny.site_inputs(recognizer.model, choices, tiny.wave(1))
    for name, module in sites(integer.model).items():
        with torch.inference_mode(), simulate(recognizer.model, {name: choices[name]}, weights):
            expected = recognizer.model.get_submodule(name)(inputs[name])
            assert tiny.relative(module(inputs[name]), expected) < 1e-5
        assert torch.equal(module.weight_codes().flatten(1), weights[name].codes)


def test_what_is_scored_is_what_is_written(float_folder, speech, tmp_path, monkeypatch):
    scored, score = {}, SearchSession.scored
    monkeypatch.setattr(SearchSession, "scored", lambda self, plan, w: (scored.update(w), score(self, plan, w))[1])
    made = CalibrateOptions(
        str(float_folder), str(speech), str(tmp_path / "q"), scheme="w3a8", method="mse", sparsity="1:4"
    )
    calibrate(made)
    choices = read_plan(tmp_path / "q").quantized()
    written = stored_weights(tmp_path / "q", read.load(str(float_folder)).model, choices)
    assert written.keys() == scored.keys()
    for name, weight in written.items():
        assert torch.equal(weight.codes, scored[name].codes)
        assert torch.equal(weight.scale, scored[name].scale)
    assert sum(weight.grid.kept is not None for weight in written.values()) == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "w8a8", "sparsity": "2:4"},
        {"scheme": "w2a8", "sparsity": "4:8"},
        {"scheme": "w4a8", "sparsity": "2:8", "rounding": "nearest"},
        {"avg_bits": 3.5, "sparsity": "2:4"},
    ],
    ids=str,
)
def test_a_plan_gives_the_same_weights_again(changes, float_folder, speech, tmp_path, shell):
    made = CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "a"), method="mse", **changes)
    result = calibrate(made)
    assert shell("verify", tmp_path / "a").returncode == 0
    warned = pytest.warns(UserWarning, match="rounded to nearest, so that nothing makes up for those that become zero")
    with warned if changes.get("rounding") == "nearest" else contextlib.nullcontext():
        calibrate(CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "b"), plan=str(tmp_path / "a")))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert read_plan(tmp_path / "a").sites == read_plan(tmp_path / "b").sites
    told = shell("diff", tmp_path / "a", tmp_path / "b").stdout
    assert told.startswith("the plans make the same choices")
    found = [site for site in result["sites"] if "reason" not in site]
    assert {site.get("weight_sparsity") for site in found} == {changes["sparsity"], None}
    if "avg_bits" in changes:
        assert 8 * sum(site["weight_bytes"] for site in found) <= 3.5 * sum(site["weight_count"] for site in found)
        assert len({site["weight_bits"] for site in found}) > 1


def test_magnitudes_alone_decide_with_rounding_to_nearest(float_folder, speech, tmp_path):
    model = read.load(str(float_folder)).model
    out = tmp_path / "q"
    changes = {"scheme": "w4a8", "method": "mse", "rounding": "nearest", "sparsity": "2:4"}
    calibrate(CalibrateOptions(str(float_folder), str(speech), str(out), **changes))
    weight = stored_weights(out, model, read_plan(out).quantized())[SITE]
    order = model.get_submodule(SITE).weight.detach().abs().view(48, -1, 4).argsort(-1, descending=True)
    expected = torch.zeros(48, 8, 4, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    assert torch.equal(weight.grid.kept.view(48, 8, 4), expected)


def test_an_edited_plan_can_say_it_for_one_site(calibrated, float_folder, speech, tmp_path, shell):
    data = json.loads((calibrated[0] / "plan.json").read_text())
    data["sites"][SITE]["weight_sparsity"] = "1:4"
    del data["sites"][SITE]["rounding"]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    told = shell("diff", calibrated[0], tmp_path / "plan.json").stdout
    assert f"{SITE}: w8a8 -> w8-1:4a8, rounding nearest -> none" in told
    out = tmp_path / "q"
    done = shell("calibrate", float_folder, "--data", speech, "--out", out, "--plan", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    made = read_plan(out).quantized()
    assert str(made[SITE].weight.format) == "w8-1:4"
    assert made[SITE].weight.rounding == "compensated"
    assert [str(each.weight.format) for name, each in made.items() if name != SITE] == ["w8"] * 20
    assert shell("verify", out).returncode == 0


def test_damaged_positions_are_found(damaged, shell):
    stored = load_file(damaged / "model.safetensors")
    stored[f"{SITE}.positions"][3] ^= 0x0F  # of the first block in the byte both move
    save_file(stored, damaged / "model.safetensors", {"format": "pt"})
    done = shell("verify", damaged)
    assert done.returncode == 3
    assert f"{damaged}/model.safetensors: changed since it was written (checksum)" in done.stdout


def test_positions_that_do_not_ascend_are_not_loaded(damaged, shell):
    stored = load_file(damaged / "model.safetensors")
    stored[f"{SITE}.positions"].zero_()
    save_file(stored, damaged / "model.safetensors", {"format": "pt"})
    config = json.loads((damaged / "config.json").read_text())
    config["quantization_config"]["checksums"] = checksums(damaged)
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"{SITE}: its positions of kept weights do not ascend"):
        AutoModelForCTC.from_pretrained(damaged)
    done = shell("verify", damaged)
    assert done.returncode == 3
    assert "do not ascend" in done.stdout


def test_a_format_that_no_weight_of_this_shape_has_is_not_loaded(damaged):
    config = json.loads((damaged / "config.json").read_text())
    config["quantization_config"]["sites"][SITE] = "w4g64z-3:4a8"
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="'w4g64z-3:4' is not of a form like"):
        AutoModelForCTC.from_pretrained(damaged)


def test_what_is_no_sparsity_is_a_usage_error(float_folder, speech, tmp_path, shell):
    done = shell("calibrate", float_folder, "--data", speech, "--out", tmp_path / "q", "--sparsity", "3:4")
    assert done.returncode == 2
    assert "'3:4' is not one of '2:4', '1:4', '4:8', '2:8'" in done.stderr


def test_a_model_whose_inputs_are_no_blocks_is_refused(speech, tmp_path):
    sizes = {"hidden_size": 30, "num_attention_heads": 5, "intermediate_size": 42, "conv_dim": (18,) * 7}
    folder = tiny.save(tmp_path / "m", **sizes, num_conv_pos_embedding_groups=1)
    with pytest.raises(InputError, match="--sparsity 2:4: no weight of this model has a multiple of 4 inputs"):
        calibrate(CalibrateOptions(str(folder), str(speech), str(tmp_path / "q"), sparsity="2:4"))


def test_a_table_of_tokens_has_the_rows_of_its_product(speech, tmp_path):
    folder = tiny.save(tmp_path / "whisper", "whisper", "english")
    made = CalibrateOptions(str(folder), str(speech), str(tmp_path / "q"), scheme="w4a8", method="max", sparsity="2:4")
    calibrate(made)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "q")
    table, product = model.model.decoder.embed_tokens, model.proj_out
    assert isinstance(table, TableOf)
    assert str(product.form.format) == "w4g64z-2:4"
    rows = table(torch.arange(5, 40))
    codes = product.weight_codes()
    assert torch.equal(rows, codes[5:40].float() * product.scales[5:40, None])
    assert (codes.view(len(codes), -1, 4).count_nonzero(-1) <= 2).all()
