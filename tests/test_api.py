"""The package as a library: what `from stablequant import ...` gives, whoever imported what before."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import stablequant
from stablequant import InputError, Plan, calibrate, evaluate
from stablequant.evaluation.result import Result
from stablequant.foundation.options import CalibrateOptions, EvaluateOptions, TuneOptions

ROOT = Path(__file__).resolve().parents[1]


def python(code, cwd=ROOT):
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=settings, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("before", ["", "import stablequant.workflows.calibrate", "import stablequant.api"])
def test_names_are_the_same_in_any_order_of_imports(before):
    code = f"""
{before}
import stablequant
from stablequant import Plan, calibrate, evaluate
import stablequant.api, stablequant.workflows.calibrate, stablequant.quantization.plan.plan
assert calibrate is stablequant.calibrate is stablequant.api.calibrate
assert evaluate is stablequant.evaluate is stablequant.api.evaluate
assert stablequant.Plan is Plan is stablequant.quantization.plan.plan.Plan
"""
    python(code)


def test_import_of_the_package_stays_cheap():
    assert (
        python("""
import sys, stablequant
loaded = set(sys.modules)
print(*sorted(loaded & {"stablequant.workflows.calibrate", "stablequant.api", "jiwer", "scipy.signal"}))
""").split()
        == []
    )


def test_fields_of_the_options_are_the_arguments(speech, float_folder, tmp_path):
    assert list(inspect.signature(calibrate).parameters) == [each.name for each in fields(CalibrateOptions)]
    assert list(inspect.signature(stablequant.tune).parameters) == [each.name for each in fields(TuneOptions)]
    assert list(inspect.signature(evaluate).parameters) == [each.name for each in fields(EvaluateOptions)]
    out = tmp_path / "w8a8"
    account = calibrate(model=str(float_folder), data=str(speech), out=str(out), method="max")
    assert account["method"] == "max"
    plan = Plan.from_json((out / "plan.json").read_text(encoding="utf-8"))
    assert set(plan.quantized()) < {site["name"] for site in account["sites"]}
    result = evaluate(str(out), str(speech), baseline=str(float_folder), max_wer_increase=1000.0)
    assert isinstance(result, Result)
    assert result.passed


def test_what_is_wrong_is_an_error_of_python(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        calibrate(model=str(tmp_path / "nothing"), data=str(tmp_path), out=str(tmp_path / "out"))
    with pytest.raises(TypeError, match="bits"):
        calibrate(model="m", data="d", out="o", bits=3)
    with pytest.raises(AttributeError, match="no attribute 'quantize'"):
        _ = stablequant.quantize


def test_types_are_published():
    assert (Path(stablequant.__file__).parent / "py.typed").is_file()


def test_example_of_the_docs_runs(tmp_path):
    """On the embedded model, as it is written there."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"## Python\n.*?```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "calibration").symlink_to(ROOT / "calibration")
    lines = python(example, tmp_path).splitlines()
    assert (tmp_path / "w8a8" / "plan.json").is_file()
    assert lines[0].endswith("times smaller")
    assert lines[-1] == "True"
