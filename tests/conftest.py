import shutil

import pytest
import soundfile
import tiny
import torch
import transformers
from hypothesis import settings
from shell import Shell

from stablequant.foundation.options import CalibrateOptions
from stablequant.workflows.calibrate import calibrate

torch.set_num_threads(1)  # the models are so small that waiting for a second thread costs more than it does
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# The two cores are shared: a slow example is no failure. The same examples every time.
settings.register_profile("stablequant", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("stablequant")


@pytest.fixture(scope="session")
def shell():
    """Runs `sfm-quant` in a process of its own."""
    with Shell() as run:
        yield run


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """A folder of four short recordings of noise with their transcripts."""
    folder = tmp_path_factory.mktemp("speech")
    for number, text in enumerate(("A B", "C", "B B A", "A")):
        soundfile.write(folder / f"{number}.wav", tiny.wave(number, 4000 + 800 * number), tiny.RATE)
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def float_folder(tmp_path_factory):
    """A random wav2vec 2.0 of the base form with its processor."""
    return tiny.save(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory, float_folder, speech):
    """(folder, calibrate JSON) of that model quantized; not to be changed."""
    out = tmp_path_factory.mktemp("quantized") / "w8a8"
    return out, calibrate(CalibrateOptions(str(float_folder), str(speech), str(out), threshold=-1.0))


@pytest.fixture
def quantized_folder(calibrated, tmp_path):
    """A copy of the quantized model that a test may damage."""
    return shutil.copytree(calibrated[0], tmp_path / "w8a8")
