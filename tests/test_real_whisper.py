"""The real Whisper tiny.en on real recordings, where they are: `shared` beside the checkout, or two variables."""

import json
import os
from pathlib import Path

import pytest

from stablequant.evaluation.error_rates import normalizer
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint import read
from stablequant.speech import audio
from stablequant.workflows.calibrate import calibrate

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODEL = Path(os.environ.get("STABLEQUANT_WHISPER", SHARED / "models" / "whisper-tiny.en"))
SPEECH = Path(os.environ.get("STABLEQUANT_SPEECH", SHARED / "speech" / "read"))
EXPECTED = {  # as the float model writes them, but for what the normalizer removes
    "LJ001-0002.flac": "in being comparatively modern",
    "LJ001-0004.flac": "produced the block books which were the immediate predecessors of the true printed book",
    "LJ001-0005.flac": "the invention of movable metal letters in the middle of the 15th century may justly be "
    "considered as the invention of the art of printing",
}

pytestmark = pytest.mark.skipif(
    not (MODEL.is_dir() and SPEECH.is_dir()),
    reason="no tiny.en or no recordings; scripts/whisper_tiny.py makes the model, STABLEQUANT_WHISPER and "
    "STABLEQUANT_SPEECH name the folders",
)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    rows = [{"audio_filepath": str(SPEECH / "audio" / name)} for name in EXPECTED]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = calibrate(
        CalibrateOptions(str(MODEL), str(folder / "manifest.jsonl"), str(folder / "w8a8"), method="max")
    )
    assert summary["bytes_float32"] / summary["bytes_after"] > 3.3  # the tokenizer's 3.6 MB are counted too
    return str(folder / "w8a8")


def test_the_words_of_real_recordings(quantized):
    recognizer = read.load(quantized)
    assert recognizer.sites == {"integer": 67, "simulated": 0, "float": 3}, "the table of tokens and the positions"
    assert recognizer.notices == ()
    waves = [audio.load(audio.whole_file(str(SPEECH / "audio" / name)), 16000) for name in EXPECTED]
    found = [normalizer("english")(each.text) for each in recognizer.recognise(waves)]
    assert found == [normalizer("english")(text) for text in EXPECTED.values()]


def test_a_word_after_a_comma_and_a_pause_begins_where_it_is_heard(quantized):
    """In the recording the pauses end at 4.44 and 5.80 s, by its loudness."""
    recognizer = read.load(quantized)
    for name, word, begins in (("LJ001-0001.flac", "differs", 4.44), ("LJ001-0012.flac", "setting", 5.80)):
        [spoken] = recognizer.recognise([audio.load(audio.whole_file(str(SPEECH / "audio" / name)), 16000)])
        words = spoken.words()
        assert next(each.start for each in words if each.word == word) == pytest.approx(begins, abs=0.15)
        assert all(each.start < each.end for each in words)
