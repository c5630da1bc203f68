"""A disk that fills up or may not be written to, for real: a limit on the size of files, a small file system."""

import errno
import resource
import shutil
import subprocess

import pytest
import tiny

from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint import check_destination
from stablequant.models.checkpoint.verify import problems
from stablequant.workflows.calibrate import calibrate


@pytest.fixture
def model_size(calibrated):
    return (calibrated[0] / "model.safetensors").stat().st_size


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])  # the second keeps what layers give on disk
def test_files_that_cannot_grow_further(scheme, float_folder, speech, tmp_path, model_size):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (model_size // 2,) * 2)  # noqa: E731
    arguments = ("calibrate", float_folder, "--data", speech, "--out", tmp_path / "q", "--method", "max")
    arguments += ("--scheme", scheme)
    done = tiny.sfm_quant(*arguments, preexec_fn=limit)
    assert done.returncode == 3, done.stderr
    assert "Error: " in done.stderr
    assert "File too large" in done.stderr or "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"q.calibration"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte; skipped where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # weights read from there may still be mapped


def test_a_full_disk_keeps_the_older_model(small_disk, calibrated, float_folder, speech, model_size):
    older = small_disk / "q"
    shutil.copytree(calibrated[0], older)
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - model_size // 2))
    with pytest.raises((OSError, InputError)) as error:  # both are one sentence on the command line
        calibrate(CalibrateOptions(str(float_folder), str(speech), str(older), method="max"))
    assert "free some space" in str(error.value) or error.value.errno == errno.ENOSPC
    assert problems(older) == []
    assert (older / "plan.json").read_bytes() == (calibrated[0] / "plan.json").read_bytes()
    assert not list(small_disk.glob(".q.*"))


def test_a_place_that_may_not_be_written_to(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="is not writable"):
        check_destination(str(small_disk / "q"))
