"""Everything that `sfm-quant verify` has to find, and a model that is as it was written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import read
from stablequant.models.checkpoint.value_checks import value_problems
from stablequant.models.checkpoint.verify import checksums, problems

SITE = "wav2vec2.encoder.layers.0.attention.q_proj"


def test_a_model_as_it_was_written_has_no_problems(calibrated):
    assert problems(calibrated[0]) == []
    stored = json.loads((calibrated[0] / "config.json").read_text())["quantization_config"]["checksums"]
    files = {path.relative_to(calibrated[0]).as_posix() for path in calibrated[0].rglob("*") if path.is_file()}
    assert "evidence/histograms.json" in files
    assert stored.keys() == files - {"README.md"}


def test_so_has_one_that_transformers_wrote_again(calibrated, quantized_folder):
    AutoModelForCTC.from_pretrained(calibrated[0]).save_pretrained(quantized_folder)
    assert problems(quantized_folder) == []


def test_the_model_card_may_be_edited(quantized_folder):
    (quantized_folder / "README.md").write_text("mine")
    assert problems(quantized_folder) == []


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json", "vocab.json", "evidence/histograms.json"])
def test_one_flipped_bit_in_any_file_is_found(quantized_folder, name):
    content = bytearray((quantized_folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (quantized_folder / name).write_bytes(content)
    assert f"{quantized_folder / name}: changed since it was written (checksum)" in problems(quantized_folder)


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json", "vocab.json"])
def test_a_file_that_is_gone_is_named(quantized_folder, name):
    (quantized_folder / name).unlink()
    assert f"{quantized_folder / name}: missing, or not a regular file in this folder" in problems(quantized_folder)


def test_a_model_is_whole_without_the_evidence(quantized_folder):
    (quantized_folder / "evidence/histograms.json").unlink()
    assert problems(quantized_folder) == []


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="nope: no such folder"):
        problems(tmp_path / "nope")


def test_weights_that_came_later_are_named(quantized_folder):
    shutil.copy(quantized_folder / "model.safetensors", quantized_folder / "more.safetensors")
    assert problems(quantized_folder) == [
        f"{quantized_folder}/more.safetensors: does not belong to the model (it has no checksum)"
    ]


def test_a_checksum_reaches_no_file_elsewhere(quantized_folder):
    edit(quantized_folder, lambda config: config["quantization_config"]["checksums"].update({"../elsewhere": "0"}))
    (quantized_folder.parent / "elsewhere").write_text("")
    assert problems(quantized_folder) == [
        f"{quantized_folder}/../elsewhere: missing, or not a regular file in this folder"
    ]


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


CONFIG = {
    "a setting of the model": (lambda c: c.update(layer_norm_eps=0.5), "config.json: changed since it was written"),
    "the scheme": (lambda c: c["quantization_config"].update(scheme="w6a6"), "scheme w8a8, but w6a6 in config.json"),
    "the bits": (lambda c: c["quantization_config"]["sites"].update({SITE: "w8a4"}), f"{SITE} is w8a8, but w8a4 in"),
    "a site": (lambda c: c["quantization_config"]["sites"].pop(SITE), f"{SITE} is w8a8, but float in"),
    "a checksum": (
        lambda c: c["quantization_config"]["checksums"].pop("vocab.json"),
        "vocab.json: does not belong to the model",
    ),
    "another field": (
        lambda c: c["quantization_config"].update(extra=1),
        "has fields that stablequant does not write",
    ),
    "a field less": (
        lambda c: c["quantization_config"].pop("format_version"),
        "has fields that stablequant does not write",
    ),
    "no checksums": (lambda c: c["quantization_config"].pop("checksums"), "has no checksums"),
    "checksums of nothing": (lambda c: c["quantization_config"].update(checksums=[]), "has no checksums"),
    "sites of nothing": (lambda c: c["quantization_config"].pop("sites"), "has no sites"),
}


@pytest.mark.parametrize("change", CONFIG)
def test_an_edited_config_is_found(quantized_folder, change):
    edit(quantized_folder, CONFIG[change][0])
    assert CONFIG[change][1] in "\n".join(problems(quantized_folder))


def forged(folder, change):
    """Change the weights and write the checksums anew, so that only the values give it away."""
    stored = load_file(folder / "model.safetensors")
    change(stored)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    edit(folder, lambda config: config["quantization_config"].update(checksums=checksums(folder)))
    return "\n".join(problems(folder))


VALUES = {
    "scale 0": (lambda s: s[f"{SITE}.scales"].__setitem__(3, 0.0), f"{SITE}.scales has values that are not positive"),
    "scale nan": (lambda s: s[f"{SITE}.scales"].fill_(float("nan")), f"{SITE}.scales has values that are NaN"),
    "input scale": (
        lambda s: s[f"{SITE}.input_scale"].fill_(-1.0),
        f"{SITE}.input_scale has values that are not positive",
    ),
    "zero point": (lambda s: s[f"{SITE}.input_zero_point"].fill_(256), "is neither a code of its grid (0 to 255)"),
    "a third": (lambda s: s[f"{SITE}.input_zero_point"].fill_(3.3), "(0 to 255) nor half-way between two"),
    "a bias": (lambda s: s["lm_head.bias"].fill_(float("inf")), "lm_head.bias has values that are NaN or infinite"),
}


@pytest.mark.parametrize("change", VALUES)
def test_impossible_values_are_found_and_not_loaded(quantized_folder, change):
    change, message = VALUES[change]
    assert message in forged(quantized_folder, change)
    with pytest.raises(InputError, match="weights is damaged") as error:
        read.load(str(quantized_folder))
    assert message in str(error.value)


def test_another_scale_than_the_plan_has_is_found(quantized_folder):
    found = forged(quantized_folder, lambda stored: stored[f"{SITE}.input_scale"].mul_(2))
    assert f"{SITE}: scale and zero_point differ from those in the weights file" in found


def test_a_site_without_its_tensors_is_found(quantized_folder):
    assert SITE in forged(quantized_folder, lambda stored: stored.pop(f"{SITE}.input_scale"))


def test_every_problem_is_told_not_the_first_alone(quantized_folder):
    edit(quantized_folder, lambda config: config["quantization_config"].update(scheme="w6a6"))
    (quantized_folder / "plan.json").write_text((quantized_folder / "plan.json").read_text().replace("w8a8", "w7a7"))
    (quantized_folder / "vocab.json").unlink()
    assert len(problems(quantized_folder)) == 3


def test_a_folder_of_something_else_is_refused(float_folder, tmp_path):
    for folder in (float_folder, tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=str(folder)):
            problems(folder)


def test_values_are_looked_at_site_by_site():
    good = {"a.scales": torch.ones(2), "a.input_scale": torch.tensor(0.1), "a.input_zero_point": torch.tensor(15)}
    assert list(value_problems(good, {"a": 4})) == []
    assert len(list(value_problems(good, {"a": 3}))) == 1
    assert list(value_problems({"b": torch.tensor([1.0, float("nan")])}, {})) == [
        "b has values that are NaN or infinite"
    ]


def test_verify_from_the_shell(quantized_folder, shell):
    done = shell("verify", quantized_folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{quantized_folder}: ok\n", "")
    (quantized_folder / "plan.json").write_text("{")
    done = shell("verify", quantized_folder)
    assert done.returncode == 3
    assert f"{quantized_folder}/plan.json: not a plan" in done.stdout
    assert "(problems: 2)" in done.stderr
    assert "Traceback" not in done.stderr
