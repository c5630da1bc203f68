"""`calibrate` and `tune` killed at random moments: a whole model or none, and `--resume` ends with the same bytes."""

import json
import random
import shutil
import signal
import time

import pytest
import tiny
from damage import seeds

from stablequant.models.checkpoint.verify import problems

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FILES = ("plan.json", "model.safetensors", "config.json")


@pytest.fixture(scope="module", params=["wav2vec2 w8a8", "wav2vec2 w4a8", "whisper w8a8", "tuned w3a8"])
def whole(request, shell, float_folder, speech, tmp_path_factory):
    """(arguments without --out, the model that they give, seconds that it takes)"""
    family, scheme = request.param.split()
    out = tmp_path_factory.mktemp("whole") / "q"
    model = tiny.save(out.with_name("float"), family, "multilingual") if family == "whisper" else float_folder
    of_command = ["--steps", "20", "--layer-steps", "4"] if family == "tuned" else ["--threshold", "-1"]
    command = "tune" if family == "tuned" else "calibrate"
    arguments = [command, model, "--data", speech, "--scheme", scheme, *of_command]
    began = time.monotonic()
    done = shell(*arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    return arguments, {name: (out / name).read_bytes() for name in FILES}, time.monotonic() - began


@pytest.mark.parametrize("seed", seeds(3))
def test_killed_at_random_moments(seed, shell, whole, calibrated, tmp_path):
    arguments, expected, seconds = whole
    rng, out = random.Random(seed), tmp_path / "place" / "q"
    out.parent.mkdir()
    older = rng.random() < 0.5
    if older:
        shutil.copytree(calibrated[0], out)
        (out / "README.md").write_text("older")
    code, resume = None, []
    for _ in range(3):
        moment = rng.random() * 1.1 * seconds
        done = shell(*arguments, "--out", out, *resume, kill=SIGNALS[seed % 3], after=moment)
        code, told = done.returncode, done.stdout + done.stderr
        assert code in (0, 130, 143, -signal.SIGKILL, -signal.SIGTERM), told
        assert "Traceback" not in told
        assert whole_or_none(out, older), sorted(out.parent.rglob("*"))
        if code == 0:
            break
        resume = ["--resume"]
    if code != 0:
        done = shell(*arguments, "--out", out, "--resume")
        assert done.returncode == 0, done.stderr
    found = {name: (out / name).read_bytes() for name in FILES}
    assert found["model.safetensors"] == expected["model.safetensors"]
    plan, config, *wanted = (json.loads(each[n]) for each in (found, expected) for n in ("plan.json", "config.json"))
    assert_equal(plan, wanted[0])
    for each in (config, wanted[1]):  # of a plan whose scores may differ in the last digit
        each["quantization_config"]["checksums"].pop("plan.json")
    assert config == wanted[1]
    assert [path.name for path in out.parent.iterdir()] == ["q"], "nothing is left beside"


def assert_equal(one, other, place="plan.json"):
    """Equal JSON; scores are rounded to six digits, and in full runs of the suite one differed in the last."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            assert_equal(one[key], other[key], f"{place}: {key}")
    elif isinstance(one, float) and place.endswith("score"):
        assert one == pytest.approx(other, abs=2e-6), place
    else:
        assert one == other, place


def whole_or_none(out, older):
    if out.exists():
        return problems(out) == []
    return not older or any(out.parent.glob(".q.stablequant-*/old"))
