"""JSON that we wrote is read strictly: unknown and doubled fields, other types and infinite numbers are refused."""

import os
from dataclasses import dataclass

import pytest

from stablequant.foundation.errors import InputError
from stablequant.foundation.strict_json import mapping, parsed, read, text_of


@dataclass(frozen=True)
class Some:
    number: float
    name: str | None = None
    pair: tuple[float, float] = (0.0, 0.0)
    pairs: tuple[tuple[float, float], ...] = ()
    counts: dict[str, int] | None = None


def test_values_get_the_types_of_the_fields():
    text = '{"number": 1, "name": null, "pair": [1, 2.5], "pairs": [[1, 2], [3, 4]], "counts": {"a": 1}}'
    found = read(Some, parsed(text))
    assert found == Some(1.0, None, (1.0, 2.5), ((1.0, 2.0), (3.0, 4.0)), {"a": 1})
    assert isinstance(found.number, float)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "is not a JSON object"),
        ('{"numbr": 1}', "unknown field 'numbr'; 'number' is one"),
        ('{"number": "1"}', "number is '1', not a finite number"),
        ('{"number": true}', "number is True, not a finite number"),
        ('{"number": 1e999}', "number is inf, not a finite number"),
        ('{"number": NaN}', "number is nan, not a finite number"),
        ('{"number": 1, "pair": [1]}', "pair is .*, not a list"),
        ('{"number": 1, "pair": {"a": 1}}', "pair is .*, not a list"),
        ('{"number": 1, "pair": [1, "2"]}', "pair is '2', not a finite number"),
        ('{"number": 1, "pairs": [1]}', "pairs is 1, not a list"),
        ('{"number": 1, "counts": {"a": 1.5}}', "a of counts is 1.5, not a whole number"),
        ('{"number": 1, "counts": []}', "counts is .*, not an object"),
        ('{"name": "a"}', "number"),
    ],
)
def test_what_is_wrong_is_named(text, problem):
    with pytest.raises(TypeError, match=problem):
        read(Some, parsed(text))


def test_a_key_that_is_there_twice():
    with pytest.raises(ValueError, match="'a' appears twice; remove one of them"):
        parsed('{"x": {"a": 1, "a": 2}}')
    with pytest.raises(TypeError, match=r"the row is \[\], not an object"):
        mapping([], "the row")


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("gone", "no such file"), ("bytes", "not UTF-8 text"), ("pipe", "pipe or device")):
        with pytest.raises(InputError, match=f"{name}: .*{problem}.*; pass a plan"):
            text_of(tmp_path / name, "a plan")
