"""Long recordings: joins, and the answers of real models in pieces against those to the whole."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.models import recognizer as recognizers
from stablequant.models.families import wav2vec2
from stablequant.models.families.base import Geometry
from stablequant.models.recognizer import Recognizer
from stablequant.models.tasks import ctc
from stablequant.models.tasks.base import Network
from stablequant.speech import pauses
from stablequant.speech.longform import stretches

BLANK = 0
STEP = 0.02  # seconds


def joined(left, right, offset):
    """The symbols of two pieces of which one begins `offset` frames after the other."""
    network = Network(None, SimpleNamespace(pad_token_id=BLANK), STEP)
    return ctc.joined(ctc.Symbols(left, network), ctc.Symbols(right, network), offset * STEP).symbols


def sparse(rng, frames):
    """Symbols as CTC models have them: mostly blank."""
    return np.where(rng.random(frames) < 0.2, rng.integers(1, 5, frames), BLANK)


@given(st.integers(0, 2**32 - 1), st.integers(8, 200))
def test_equal_symbols_join_to_the_whole(seed, overlap):
    symbols = sparse(np.random.default_rng(seed), 400)
    assert np.array_equal(joined(symbols[: 100 + overlap], symbols[100:], 100), symbols)


def test_ends_that_hear_otherwise_do_not_change_the_join():
    symbols = sparse(np.random.default_rng(0), 400)
    left, right = symbols[:300].copy(), symbols[100:].copy()
    left[270:], right[:30] = 7, 8
    assert np.array_equal(joined(left, right, 100), symbols)


def test_a_symbol_at_another_frame_is_neither_lost_nor_doubled():
    """The middle frame is blank in both, but one hears the symbol before it and the other after it."""
    left, right = np.zeros(100, int), np.zeros(100, int)
    left[49], right[51] = 3, 3
    left[20] = right[20] = left[80] = right[80] = 4
    found = joined(left, right, 0)
    assert [symbol for symbol in found if symbol] == [4, 3, 4]


def test_a_symbol_that_lasts_over_the_join_stays_one():
    symbols = np.full(100, 5)
    assert np.array_equal(joined(symbols, symbols, 0), symbols)


def test_of_an_overlap_without_agreement_one_of_both_is_taken_at_the_middle():
    found = joined(np.full(100, 5), np.full(100, 6), 0)
    assert found.tolist() == [5] * 50 + [6] * 50


def blocks(waveform, size=7000):
    return [waveform[at : at + size] for at in range(0, len(waveform), size)]


@pytest.fixture
def short(monkeypatch):
    """Pieces of two seconds, so that a tiny recording is a long one."""
    monkeypatch.setattr(pauses, "MARGIN", 0.4)
    monkeypatch.setattr(recognizers, "BATCH_SECONDS", 2.0)


class Loud(Recognizer):
    """Writes symbol 1 in the frames that are loud, blank in the others; answers several pieces in one call."""

    def __init__(self):
        self.calls = []
        processor = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=BLANK))
        about = {"sites": {}, "geometry": Geometry(400, 320), "family": wav2vec2, "task": ctc}
        super().__init__(None, processor, "loud", "float32", tiny.RATE, batched=self.logits_all, **about)

    def inputs(self, waveform):
        return {"input_values": torch.from_numpy(waveform)[None]}

    def logits_all(self, waveforms):
        self.calls.append([len(each) for each in waveforms])
        return [torch.nn.functional.one_hot(torch.from_numpy(self.symbols(each.numpy()))) for each in waveforms]

    @staticmethod
    def symbols(waveform):
        frames = [waveform[at : at + 400] for at in range(0, len(waveform) - 399, 320)]
        return np.array([int(np.abs(each).max() > 0.5) for each in frames], np.int64)


def test_speech_without_a_pause_gives_the_symbols_of_the_whole(short):
    waveform = tiny.wave(0, 10 * tiny.RATE) * np.repeat(np.linspace(1.5, 0.5, 1000), tiny.RATE // 100)
    (found,) = stretches(Loud(), blocks(waveform.astype(np.float32)))
    assert found.start == 0
    assert np.array_equal(found.spoken.symbols, Loud.symbols(waveform))
    assert set(found.spoken.symbols) == {0, 1}


def test_pauses_part_the_stretches_and_calls_hold_no_more_than_one_may(short):
    waveform = np.zeros(10 * tiny.RATE, np.float32)
    for second in (1, 3, 4, 8):
        waveform[second * tiny.RATE : second * tiny.RATE + 8000] = tiny.wave(second, 8000)
    recognizer = Loud()
    found = list(stretches(recognizer, blocks(waveform)))
    starts = [each.start / tiny.RATE for each in found]
    assert starts == pytest.approx([1, 3, 4, 8], abs=0.1)
    assert all(sum(call) <= 2 * tiny.RATE for call in recognizer.calls)
    assert max(map(len, recognizer.calls)) > 1


@pytest.mark.parametrize("samples", [0, 100, 399])
def test_what_is_too_short_for_a_frame_is_heard_as_nothing(samples):
    assert list(stretches(Loud(), blocks(tiny.wave(0, samples)))) == []


@pytest.mark.parametrize(("family", "form"), [("wav2vec2", "base"), ("hubert", "large"), ("wav2vec2", "adapter")])
def test_frames_of_overlapping_pieces_lie_on_each_other(short, tmp_path, family, form):
    """There is a frame for every stride of the whole, whatever the form of the model."""
    recognizer = tiny.recognizer(family, form, tmp_path=tmp_path)
    waveform = tiny.wave(0, 6 * tiny.RATE)
    (found,) = stretches(recognizer, blocks(waveform))
    assert len(found.spoken.symbols) == len(tiny.logits(recognizer, waveform))
