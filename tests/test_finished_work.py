"""What is finished is delivered: nothing that can fail comes between the work and its result; runs harm no other."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from stablequant import evaluate
from stablequant.cli import main as cli
from stablequant.evaluation import peak_memory
from stablequant.foundation import files
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.source import folder_bytes
from stablequant.workflows.calibrate import calibrate

COMMAND = Path(sys.executable).with_name("sfm-quant")


@pytest.fixture
def model(calibrated):
    return calibrated[0]


def test_a_full_stdout_does_not_cost_the_json(model, speech, tmp_path):
    arguments = [COMMAND, "eval", model, "--data", speech, "--json", tmp_path / "r.json"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == 1


def test_a_file_that_cannot_be_written_costs_no_other(model, speech, tmp_path, monkeypatch):
    def write(path, text, real=files.write):
        if path.name == "p.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, text)

    monkeypatch.setattr(files, "write", write)
    monkeypatch.setattr(peak_memory, "peak_rss_bytes", lambda *_: None)
    outputs = {name: str(tmp_path / name) for name in ("r.json", "p.jsonl", "j.xml")}
    arguments = ["--json", outputs["r.json"], "--predictions", outputs["p.jsonl"], "--junit", outputs["j.xml"]]
    done = CliRunner().invoke(cli.main, ["eval", str(model), "--data", str(speech), *arguments])
    assert done.exit_code == 3
    assert "p.jsonl: not written; No space left on device; free some space" in done.output
    assert "WER %" in done.output
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == 1
    assert (tmp_path / "j.xml").exists()


def test_what_c_code_prints_does_not_reach_the_json(model, speech, shell):
    done = shell("eval", model, "--data", speech, "--json", "-", env={"ONEDNN_VERBOSE": "1"})
    assert json.loads(done.stdout)["schema"] == 1
    assert "onednn_verbose" in done.stderr


def test_evaluation_looks_nothing_up_after_the_work(calibrated, speech, tmp_path, monkeypatch):
    """The model's folder may be gone by then."""
    folder = shutil.copytree(calibrated[0], tmp_path / "model")
    monkeypatch.setattr(peak_memory, "peak_rss_bytes", lambda *_: shutil.rmtree(folder))
    found = evaluate(model=str(folder), data=str(speech))
    assert not folder.exists()
    assert found.model.bytes_on_disk == folder_bytes(calibrated[0])


def test_a_second_run_into_the_same_folder_is_refused(float_folder, speech, tmp_path):
    out = tmp_path / "w8a8"
    options = CalibrateOptions(str(float_folder), str(speech), str(out), method="max")
    with (tmp_path / ".w8a8.stablequant.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another calibration is writing there"):
            calibrate(options)
    assert not out.exists()
    calibrate(options)  # the lock of a run that ended holds nobody up
    assert [path.name for path in tmp_path.iterdir()] == ["w8a8"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(float_folder, speech, tmp_path, there):
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "models").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "models")
    calibrate(CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "out"), method="max"))
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "models" / "model.safetensors").is_file()


def test_a_path_that_is_no_utf8_is_refused_before_the_work(float_folder, speech, tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        calibrate(CalibrateOptions(str(float_folder), str(speech), out, method="max"))


@pytest.mark.parametrize(
    "arguments",
    [("transcribe", "", "a.wav"), ("transcribe", "model", ""), ("eval", "model", "--data", ""), ("calibrate", "")],
    ids=" ".join,
)
def test_an_empty_path_is_no_folder(arguments):
    done = tiny.sfm_quant(*arguments)
    assert done.returncode == 2
    assert "an empty path" in done.stderr


def test_optimisation_that_transformers_does_not_bear(model):
    command = [sys.executable, "-OO", COMMAND, "transcribe", model, "a.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "python -OO removes docstrings" in done.stderr


def test_a_working_directory_that_is_gone(tmp_path, model):
    (tmp_path / "here").mkdir()
    command = f"cd {tmp_path}/here && rmdir {tmp_path}/here && exec {COMMAND} transcribe {model} a.wav"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_with_a_line_break_is_one_line(model, tmp_path, speech, shell):
    odd = tmp_path / "a\tb\nc.wav"
    odd.write_bytes((speech / "0.wav").read_bytes())
    done = shell("transcribe", model, odd)
    assert done.stdout.startswith(f"{tmp_path}/a\\tb\\nc.wav\t")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_json_to_stdout_by_its_path(model, speech, name, shell):
    done = shell("eval", model, "--data", speech, "--json", name)
    assert json.loads(done.stdout)["schema"] == 1
    assert "WER %" in done.stderr


def test_a_name_that_is_too_long_is_refused_before_the_work(model, speech, tmp_path):
    done = tiny.sfm_quant("eval", model, "--data", speech, "--json", tmp_path / ("a" * 245))
    assert done.returncode == 2
    assert "has too long a name" in done.stderr
