"""Files of a quantized model damaged at random: a sentence or a model that works, and nothing that `verify` misses."""

import json
import random
import shutil

import pytest
import tiny
from damage import damaged_bytes, damaged_json, seeds

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import read
from stablequant.models.checkpoint.verify import checksums, problems
from stablequant.models.families.sites import find_sites
from stablequant.quantization.plan.diff import diff_table
from stablequant.quantization.plan.plan_file import read_draft
from stablequant.quantization.plan.table import plan_table
from stablequant.quantization.planners.edited import EditedPlan

VERSION = "transformers_version"
WAVE = tiny.wave(3, 1600)


@pytest.fixture(scope="module")
def folder(calibrated, tmp_path_factory):
    """A copy whose files are damaged one after the other and put back."""
    return shutil.copytree(calibrated[0], tmp_path_factory.mktemp("damaged") / "w8a8")


def sentence(act):
    """What `act` refuses to do, in one sentence; None when it does it."""
    try:
        act()
    except InputError as error:
        told = str(error)
    else:
        return None
    assert "\n" not in told
    assert len(told) < 2000
    return told


def used(folder):
    """Load the model and use it; a config may ask for more samples than there are."""
    recognizer = read.load(str(folder))
    if recognizer.min_samples <= len(WAVE):
        assert tiny.logits(recognizer, WAVE).isfinite().all()


def altered(folder):
    return sentence(lambda: problems(folder)) or problems(folder)


def damage(folder, name, content):
    """With the file damaged: no traceback, and `verify` tells."""
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        refused = sentence(lambda: used(folder))
        assert altered(folder) or same_json(content, whole), "verify misses it"
        return refused
    finally:
        path.write_bytes(whole)


def same_json(content, whole):
    """Whether the damage changed nothing that is read: a space, or which version of transformers wrote it."""
    try:
        before, after = json.loads(whole), json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(after, dict) and {**before, VERSION: 0} == {**after, VERSION: 0}


@pytest.mark.parametrize("seed", seeds(25))
def test_damaged_config(seed, folder):
    damage(folder, "config.json", damaged_json((folder / "config.json").read_text(), random.Random(seed)))


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("seed", seeds(6))
def test_damaged_processor(seed, name, folder):
    damage(folder, name, damaged_json((folder / name).read_text(), random.Random(seed)))


@pytest.mark.parametrize("seed", seeds(10))
def test_damaged_header_of_the_weights(seed, folder):
    whole = (folder / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    assert damage(folder, "model.safetensors", damaged_bytes(whole[:size], random.Random(seed)) + whole[size:]) != ""


@pytest.mark.parametrize("seed", seeds(15))
def test_header_of_the_weights_with_other_values(seed, folder):
    whole = (folder / "model.safetensors").read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    header = damaged_json(whole[8:size].decode(), random.Random(seed))
    damage(folder, "model.safetensors", len(header).to_bytes(8, "little") + header + whole[size:])


@pytest.mark.parametrize("seed", seeds(10))
def test_weights_with_damaged_bytes(seed, folder):
    whole = (folder / "model.safetensors").read_bytes()
    damage(folder, "model.safetensors", damaged_bytes(whole, random.Random(seed)))


@pytest.mark.parametrize("seed", seeds(15))
def test_weights_cut_short_are_never_loaded(seed, folder):
    whole = (folder / "model.safetensors").read_bytes()
    cut = random.Random(seed).randrange(len(whole))
    assert "cut short or damaged" in damage(folder, "model.safetensors", whole[:cut])


@pytest.mark.parametrize("seed", seeds(60))
def test_damaged_plan(seed, folder, float_folder):
    path = folder / "plan.json"
    whole = path.read_bytes()
    path.write_bytes(damaged_json(whole.decode(), random.Random(seed)))
    try:
        sites = find_sites(model(float_folder))
        refused = sentence(lambda: EditedPlan(read_draft(path), str(path)).check(sites))
        for use in (plan_table, lambda each: diff_table(each, each)):
            told = sentence(lambda use=use: use(str(folder)))
            assert told is None or refused
        assert altered(folder) or same_json(path.read_bytes(), whole)
        if refused is None:
            assert sentence(lambda: read_draft(path).to_json()) is None
    finally:
        path.write_bytes(whole)


def model(float_folder, kept={}):  # noqa: B006
    if not kept:
        kept[float_folder] = read.load(str(float_folder)).model
    return kept[float_folder]


@pytest.mark.parametrize("seed", seeds(10))
def test_damaged_config_with_checksums_that_fit(seed, folder):
    """Somebody who writes the checksums anew can change what the model says, but crashes nothing."""
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(damaged_json(whole.decode(), random.Random(seed + 10**6)))
    try:
        sentence(lambda: edit_checksums(folder))
        sentence(lambda: used(folder))
        sentence(lambda: problems(folder))
    finally:
        (folder / "config.json").write_bytes(whole)


def edit_checksums(folder):
    found = checksums(folder)
    config = json.loads((folder / "config.json").read_text())
    if isinstance(config.get("quantization_config"), dict):
        config["quantization_config"]["checksums"] = found
        (folder / "config.json").write_text(json.dumps(config))
