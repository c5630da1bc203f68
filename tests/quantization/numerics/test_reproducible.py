"""The same plan and weights for any number of threads and any order of the recordings."""

import json

import pytest
import soundfile
import tiny
import torch
import torch.nn.functional as F
from shell import Shell

from stablequant.foundation.options import CalibrateOptions
from stablequant.quantization.numerics.reproducible import Reproducible
from stablequant.quantization.rounding import compensated
from stablequant.workflows.calibrate import calibrate

NOISE = torch.randn(1, 131, 1021, generator=torch.Generator().manual_seed(0))
KERNEL = torch.randn(32, 16, 16, generator=torch.Generator().manual_seed(1))
OPERATIONS = {
    "gelu": lambda: F.gelu(NOISE.transpose(1, 2)),
    "sigmoid": lambda: NOISE.sigmoid(),
    "tanh": lambda: torch.tanh(NOISE),
    "grouped convolution": lambda: F.conv1d(NOISE[:, :32, :499], KERNEL, groups=2, padding=8),
}


@pytest.fixture
def threads():
    """Set the number of threads; afterwards it is as it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_that_depend_on_threads_do_not_inside(operation, threads):
    found = []
    for number in (1, 2, 3, 4):
        threads(number)
        with torch.inference_mode(), Reproducible():
            found.append(OPERATIONS[operation]())
        assert torch.get_num_threads() == number
    assert all(torch.equal(each, found[0]) for each in found)


def same(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in ("plan.json", "model.safetensors"))


def test_folding_the_norm_of_a_weight_does_not_depend_on_threads(threads):
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(
            tiny.prepared(hidden_size=64, num_conv_pos_embeddings=64).wav2vec2.encoder.pos_conv_embed.conv.weight
        )
    assert all(torch.equal(each, found[0]) for each in found)


def test_compensated_rounding_does_not_depend_on_threads(threads):
    inputs = torch.randn(600, 384, generator=torch.Generator().manual_seed(2))
    gram = inputs.T @ inputs
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(compensated._unit_factors(gram, (0.01, 1.0)))
    assert all(torch.equal(unit.tril(), found[0][0].tril()) for unit, _ in found)
    assert all(torch.equal(diagonal, found[0][1]) for _, diagonal in found)


def test_the_same_model_for_any_order_of_the_recordings(float_folder, tmp_path):
    names = [f"{number:02d}.wav" for number in range(18)]  # more than are probed
    for number, name in enumerate(names):
        soundfile.write(tmp_path / name, tiny.wave(number, 1600), tiny.RATE)
    for order, out in ((names, "a"), (names[::-2] + names[::2], "b")):
        lines = (json.dumps({"audio_filepath": name, "text": "A"}) for name in order)
        (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
        calibrate(
            CalibrateOptions(str(float_folder), str(tmp_path / "manifest.jsonl"), str(tmp_path / out), method="max")
        )
    assert same(tmp_path / "a", tmp_path / "b")


@pytest.fixture(scope="module")
def shells():
    """With one thread and with two, in processes of their own: MKL hears of it before its first product."""
    with Shell(OMP_NUM_THREADS="1") as one, Shell(OMP_NUM_THREADS="2") as two:
        yield one, two


@pytest.mark.parametrize("scheme", ["w8a8", "w3a8"])
def test_the_same_model_for_any_number_of_threads(scheme, shells, float_folder, speech, tmp_path):
    arguments = ("calibrate", float_folder, "--data", speech, "--method", "max", "--scheme", scheme)
    for number, shell in enumerate(shells, 1):
        done = shell(*arguments, "--out", tmp_path / str(number))
        assert done.returncode == 0, done.stderr
    assert same(tmp_path / "1", tmp_path / "2")
