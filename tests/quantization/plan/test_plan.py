import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from stablequant.foundation.errors import InputError
from stablequant.foundation.options import SPARSITIES, parse_scheme
from stablequant.quantization.plan.choice import (
    InFloat,
    InputChoice,
    LayerChoice,
    Measured,
    Quantized,
    WeightChoice,
)
from stablequant.quantization.plan.plan import Plan, read_plan
from stablequant.quantization.plan.plan_file import Draft
from stablequant.quantization.plan.site_entry import decided, said, to_entry
from stablequant.quantization.weight_formats.base import weight_format

numbers = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | numbers
names = st.text(min_size=1, max_size=8)
formats = st.builds(weight_format, st.integers(5, 8)) | st.builds(
    weight_format, st.integers(2, 4), st.none() | st.integers(1, 512), st.booleans()
)
formats |= st.builds(weight_format, st.integers(5, 8), sparsity=st.sampled_from(SPARSITIES)) | st.builds(
    weight_format, st.integers(2, 4), st.sampled_from([None, 32, 64]), st.booleans(), st.sampled_from(SPARSITIES)
)
weights = st.builds(
    WeightChoice, format=formats, method=names, rounding=names, count=st.integers(1, 99), bytes=st.integers(1, 99)
)
inputs = st.builds(
    InputChoice,
    bits=st.integers(2, 8),
    method=st.none() | names,
    clip_percent=maybe,
    low=numbers,
    high=numbers,
    scale=numbers,
    zero_point=st.integers(0, 255),
    mid_rise=st.booleans(),
)
measured = st.builds(Measured, maybe, maybe, maybe, maybe)
choices = st.builds(
    Quantized,
    layer=names,
    kind=st.sampled_from(["linear", "conv", "grouped conv"]),
    weight=weights,
    input=st.none() | inputs,
    measured=measured,
)
float_choices = st.builds(InFloat, layer=names, kind=names, reason=names)
layer_choices = st.builds(
    LayerChoice,
    selected=st.booleans(),
    why=st.text(),
    probe_score=maybe,
    clip_percent=maybe,
    candidates=st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
)
plans = st.builds(
    Plan,
    scheme=st.just("w8a8"),
    method=names,
    sites=st.dictionaries(names, choices | float_choices, max_size=4),
    layers=st.dictionaries(names, layer_choices, max_size=3),
    score=st.dictionaries(names, numbers | names, max_size=2),
    calibration=st.dictionaries(names, numbers | st.lists(names), max_size=2),
)
WEIGHT = WeightChoice(weight_format(8), "max", "nearest", count=6, bytes=14)
QUANTIZED = Quantized("a", "linear", WEIGHT, InputChoice(6, "max", None, -1.0, 1.0, 0.5, 3))
PLAN = Plan(
    "w8a8", "max", {"a.x": QUANTIZED, "b.y": InFloat("b", "conv", "too small")}, {"a": LayerChoice(True, "so")}
)


@given(plans)
def test_a_plan_survives_json_byte_for_byte(plan):
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text


def test_fields_that_say_nothing_are_left_out():
    data = json.loads(PLAN.to_json())
    assert data["sites"]["b.y"] == {"layer": "b", "kind": "conv", "reason": "too small"}
    assert data["layers"]["a"] == {"selected": True, "why": "so"}
    assert said(to_entry(tiny.on_input(QUANTIZED, zero_point=0)))["zero_point"] == 0


def test_a_number_that_json_does_not_have_is_not_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(PLAN, score={"whole_model": float("nan")}).to_json()


def edited(change):
    data = json.loads(PLAN.to_json())
    change(data)
    return json.dumps(data)


DAMAGED = {
    "not JSON": "{",
    "empty": "",
    "a list": "[]",
    "a number": "1",
    "null": "null",
    "no schema": edited(lambda d: d.pop("schema")),
    "no sites": edited(lambda d: d.pop("sites")),
    "no layers": edited(lambda d: d.pop("layers")),
    "no scheme": edited(lambda d: d.pop("scheme")),
    "an unknown field": edited(lambda d: d.update(extra=1)),
    "an unknown field of a site": edited(lambda d: d["sites"]["a.x"].update(extra=1)),
    "an unknown field of a layer": edited(lambda d: d["layers"]["a"].update(extra=1)),
    "a site without a layer": edited(lambda d: d["sites"]["a.x"].pop("layer")),
    "a site that is a number": edited(lambda d: d["sites"].update({"a.x": 5})),
    "sites that are a list": edited(lambda d: d.update(sites=[1])),
    "candidates that are no pairs": edited(lambda d: d["layers"]["a"].update(candidates=[1])),
    "another schema": edited(lambda d: d.update(schema=2)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_plan_is_one_sentence_that_names_the_file(damage, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(DAMAGED[damage])
    with pytest.raises(InputError) as error:
        read_plan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", r"the plan is \[\], not an object"),
        (json.dumps({**json.loads(PLAN.to_json()), "sites": [1]}), r"sites is \[1\], not an object"),
        (PLAN.to_json().replace('"low": ', '"low": NaN, "probe_score": '), "a.x: low is nan, not a finite number"),
    ],
    ids=["a list", "sites", "NaN"],
)
def test_what_is_no_plan_is_told_in_our_words(text, told):
    with pytest.raises(InputError, match=told):
        Plan.from_json(text)


def test_an_unknown_field_and_another_schema_are_named():
    with pytest.raises(InputError, match="unknown field 'extra'"):
        Plan.from_json(DAMAGED["an unknown field of a site"])
    with pytest.raises(InputError, match="schema 2 is not 1"):
        Plan.from_json(DAMAGED["another schema"])


def test_a_plan_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(InputError, match=r"plan\.json: no such file"):
        read_plan(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"plan\.json: not UTF-8 text"):
        read_plan(tmp_path / "plan.json")


def test_what_config_json_says_of_a_choice():
    packed = replace(QUANTIZED, weight=replace(WEIGHT, format=weight_format(3, 32, True)))
    six = replace(QUANTIZED, weight=replace(WEIGHT, format=weight_format(6)))
    assert [each.stored_as for each in (QUANTIZED, packed, six)] == ["w8a6", "w3g32za6", "w8a6"]


NEEDED = ["weight_bits", "weight_method", "rounding", "weight_count", "weight_bytes"]
NEEDED += ["input_bits", "low", "high", "scale", "zero_point"]


@pytest.mark.parametrize("field", NEEDED)
def test_a_plan_says_everything_and_a_draft_may_leave_it_out(field, tmp_path):
    text = edited(lambda d: d["sites"]["a.x"].pop(field))
    with pytest.raises(InputError, match=f"mine: a.x: has no {field}"):
        Plan.from_json(text, "mine")
    assert getattr(Draft.from_json(text).sites["a.x"], field) is None


def test_a_weight_alone_has_no_input():
    alone = replace(QUANTIZED, input=None)
    assert decided(to_entry(alone)) == alone
    assert not {"input_bits", "method", "low"} & said(to_entry(alone)).keys()


@pytest.mark.parametrize("fields", [{"weight_group": 32}, {"weight_bits": 9}, {"weight_bits": 4, "weight_group": 0}])
def test_a_format_that_there_is_not_is_refused(fields):
    with pytest.raises(InputError, match=r"plan: a.x: weight_"):
        Plan.from_json(edited(lambda d: d["sites"]["a.x"].update(fields)))


def test_a_reason_makes_a_site_float_whatever_else_is_there():
    plan = Plan.from_json(edited(lambda d: d["sites"]["a.x"].update(reason="too slow")))
    assert plan.sites["a.x"] == InFloat("a", "linear", "too slow")


def test_parts_of_a_plan():
    assert list(PLAN.quantized()) == ["a.x"]


@pytest.mark.parametrize(("scheme", "bits"), [("w8a8", (8, 8)), ("W6A8", (6, 8)), ("w2a7", (2, 7)), ("w4A4", (4, 4))])
def test_a_scheme_gives_the_bits_of_weights_and_activations(scheme, bits):
    assert parse_scheme(scheme) == bits


@pytest.mark.parametrize(
    "scheme",
    [
        "",
        "w",
        "8a8",
        "w8",
        "w8a",
        "wa8",
        "a8w8",
        "w8a8x",
        "int8",
        "w-8a8",
        "w8.0a8",
        " w8a8",
        "w²a8",
        "w1a8",
        "w8a9",
        "w8a99999999999999",
    ],
)
def test_a_scheme_of_another_form_is_refused(scheme):
    with pytest.raises(InputError, match="scheme"):
        parse_scheme(scheme)


def test_a_plan_that_was_written_before_is_written_the_same():
    """Of the demo model, a site of each kind: whatever a plan is in memory, its file stays."""
    text = Path(__file__).with_name("golden.json").read_text(encoding="utf-8")
    plan = Plan.from_json(text)
    assert plan.to_json() == text
    assert {"linear", "conv", "grouped conv"} <= {choice.kind for choice in plan.sites.values()}
    assert any(isinstance(choice, InFloat) for choice in plan.sites.values())
