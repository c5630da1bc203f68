import json
import re

import pytest

from stablequant.foundation.errors import InputError
from stablequant.quantization.plan.plan_file import read_draft
from stablequant.quantization.plan.table import plan_table


def test_every_layer_and_every_site_has_its_line(calibrated):
    lines = plan_table(str(calibrated[0])).splitlines()
    plan = read_draft(calibrated[0] / "plan.json")
    assert lines[0].startswith("w8a8, method stable: 21 of 22 sites quantized")
    assert "4 recordings" in lines[1]
    assert lines[2].startswith(f"score: {plan.score['whole_model']:.3f} {plan.score['unit']}; lower is better, 0 = ")
    starts = [line.split(" ")[0] for line in lines]
    for name in (*plan.layers, *plan.sites):
        assert name in starts
    for name, choice in plan.sites.items():
        line = lines[len(starts) - 1 - starts[::-1].index(name)]
        assert (choice.reason in line) if choice.reason else (f"{choice.low:.4f}" in line and "w8a8" in line)


def test_every_column_is_explained_below_the_table(calibrated):
    *parts, legend = plan_table(str(calibrated[0])).split("\n\n")
    heads = {name for part in parts[1:] for name in re.split("  +", part.splitlines()[0])}
    explained = {name for line in legend.splitlines() for name in re.split("  +", line)[0].split(", ")}
    assert explained >= heads - {"layer", "bytes"} >= {"probe", "SQNR dB"}
    assert explained <= heads | {"site"}, "nothing that is not there"


def test_columns_stand_below_each_other(calibrated):
    head, *lines = plan_table(str(calibrated[0])).split("\n\n")[-2].splitlines()
    rows = [line for line in lines if "w8a8" in line]
    assert len(rows) == 21
    assert {len(line) for line in rows} == {len(head)}


@pytest.mark.parametrize("field", ["calibration", "score"])
def test_a_plan_that_was_edited_by_hand_is_still_shown(quantized_folder, field):
    path = quantized_folder / "plan.json"
    data = json.loads(path.read_text())
    data[field] = {}
    for layer in data["layers"].values():
        layer.pop("probe_score")
    path.write_text(json.dumps(data))
    assert "21 of 22" in plan_table(str(quantized_folder))


def test_a_folder_without_a_plan(tmp_path, float_folder):
    for folder in (tmp_path, float_folder, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"no plan\.json here"):
            plan_table(str(folder))


def test_a_plan_that_cannot_be_read(quantized_folder):
    (quantized_folder / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json: not a plan"):
        plan_table(str(quantized_folder))
