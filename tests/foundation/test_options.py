"""Options are checked when they are made; what the command line shows is made from the same fields."""

import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import click
import pytest

from stablequant.cli.click_options import takes
from stablequant.foundation import registry
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import (
    NORMALIZERS,
    SCORES,
    CalibrateOptions,
    EvaluateOptions,
    ReportOptions,
    TranscribeOptions,
    flag,
    methods,
)
from stablequant.quantization.search import scores

EVERY = (CalibrateOptions, EvaluateOptions, TranscribeOptions, ReportOptions)


def calibrate(**options):
    return CalibrateOptions("m", "d", "o", **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "percentle"}, "--method is percentle; it must be one of .*; did you mean percentile?"),
        ({"method": "mixed"}, "--method is mixed; it must be one of"),
        ({"score": "cer"}, "--score is cer; it must be one of logits, wer"),
        ({"rounding": "up"}, "--rounding is up; it must be one of"),
        ({"group_size": 33}, "--group-size is 33; it must be one of auto, 32, 64, 128, channel"),
        ({"sparsity": "3:4"}, "--sparsity is 3:4; it must be one of 2:4, 1:4, 4:8, 2:8"),
        ({"threshold": float("nan")}, "--threshold is nan; it must be a finite number"),
        ({"max_samples": 0}, "--max-samples is 0; it must be 1 or more"),
        ({"seed": -1}, "--seed is -1; it must be 0 or more"),
        ({"avg_bits": 1.5}, "--avg-bits is 1.5; it must be 2 or more"),
        ({"avg_bits": 9.0}, "--avg-bits is 9.0; it must be 8 or less"),
        ({"target_compression": 1.0}, "--target-compression is 1.0; it must be more than 1"),
        ({"max_wer_increase": float("inf")}, "--max-wer-increase is inf; it must be a finite number"),
        ({"scheme": "w9a8"}, "2 to 8 bits"),
        ({"scheme": "int8"}, "not of the form w8a8"),
        (
            {"avg_bits": 3.0, "target_compression": 8.0},
            "use only one of --avg-bits, --target-compression",
        ),
        ({"avg_bits": 3.0, "scheme": "w4a8"}, "--avg-bits chooses the bits of the weights"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(options, problem):
    with pytest.raises(InputError, match=problem):
        calibrate(**options)


@pytest.mark.parametrize(
    "options", [{}, {"group_size": None}, {"rounding": "nearest"}, {"avg_bits": 2.0}, {"threshold": -1.0}]
)
def test_a_value_that_can_be_used_is_kept(options):
    made = calibrate(**options)
    assert {name: getattr(made, name) for name in options} == options
    assert calibrate(scheme="W4A6").scheme == "w4a6"


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        ({"plan": "p", "scheme": "w8a8"}, "scheme"),
        ({"plan": "p", "max_wer_increase": 1.0}, "max_wer_increase"),
        ({"plan": "p", "group_size": 64}, "group_size"),
        ({"plan": "p", "sparsity": "2:4"}, "sparsity"),
        ({"method": "max", "threshold": 0.25}, "threshold"),
        ({"group_size": 64}, "group_size"),
        ({"plan": "p", "score": "wer", "rounding": "nearest"}, None),
        ({"scheme": "w4a8", "group_size": 64}, None),
        ({"avg_bits": 3.0, "group_size": 64, "method": "mse"}, None),
    ],
)
def test_an_option_that_would_decide_nothing_is_refused(options, ignored):
    made = calibrate(**options)
    if ignored is None:
        made.refuse_ignored(options)
        return
    with pytest.raises(InputError, match=f"^{flag(ignored)} is "):
        made.refuse_ignored(options)


def test_a_limit_needs_a_baseline():
    with pytest.raises(InputError, match="--min-speedup needs a model to compare with; add --baseline MODEL"):
        EvaluateOptions("m", "d", min_speedup=2.0)
    with pytest.raises(InputError, match="--normalize is all; it must be one of none, basic, english"):
        EvaluateOptions("m", "d", normalize="all")


@pytest.mark.parametrize("options", EVERY, ids=lambda each: each.__name__)
def test_every_field_is_a_parameter_with_its_default_and_help(options):
    command = click.command("some")(takes(options)(lambda made: made))
    parameters = {each.name: each for each in command.params}
    assert list(parameters) == [each.name for each in fields(options)]
    for each in fields(options):
        shown = parameters[each.name]
        assert shown.required == (each.default is each.default_factory)  # both are MISSING
        assert isinstance(shown, click.Argument) or shown.help == each.metadata["help"] != ""
    required = {"model": "m", "data": "d", "out": "o", "folder": "f", "recordings": ("a.wav",)}
    values = {each.name: required[each.name] for each in fields(options) if parameters[each.name].required}
    typed = [part for name, value in values.items() for part in _typed(parameters[name], value)]
    assert command.main(typed, standalone_mode=False) == options(**values)


def _typed(parameter, value):
    parts = value if isinstance(value, tuple) else (value,)
    return parts if isinstance(parameter, click.Argument) else (parameter.opts[0], *parts)


@pytest.mark.parametrize("kind", ["planners", "ranges"])
def test_a_new_file_is_a_new_method(kind, tmp_path, monkeypatch):
    (tmp_path / "trial.py").write_text("")
    package = import_module(f"stablequant.{registry.FOLDERS[kind]}")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert methods().count("trial") == 1
    assert calibrate(method="trial").range_planner() == ("trial" if kind == "planners" else "uniform")


def test_no_method_has_two_meanings():
    assert len(set(methods())) == len(methods())


def test_named_scores_and_normalizations_exist():
    assert set(SCORES) == set(scores.SCORES)
    normalizer = import_module("stablequant.evaluation.error_rates").normalizer
    assert [normalizer(name)("a") for name in NORMALIZERS] == ["a"] * len(NORMALIZERS)


def test_importing_them_needs_nothing_heavy():
    code = """
import sys
sys.argv = ["sfm-quant"]
from stablequant.foundation.options import methods
methods()
print(*{"torch", "transformers", "scipy", "numpy", "importlib.metadata"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
