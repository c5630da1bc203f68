"""Where a recording is cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablequant.speech.pauses import LONGEST, MARGIN, PAD, pieces

RATE, STRIDE = 16000, 320


def spoken(*seconds, level=0.1, noise=1e-4):
    """Noise in turn loud and soft, as many seconds as given: loud, soft, loud, ..."""
    rng = np.random.default_rng(0)
    parts = [
        (noise if turn % 2 else level) * rng.standard_normal(round(each * RATE)) for turn, each in enumerate(seconds)
    ]
    return np.concatenate(parts).astype(np.float32)


def cut(waveform, size=10 * RATE):
    return list(pieces([waveform[at : at + size] for at in range(0, len(waveform), size)], RATE, STRIDE))


def bounds(found):
    """[(start, end)] in seconds."""
    return [(each.start / RATE, (each.start + len(each.waveform)) / RATE) for each in found]


@pytest.mark.parametrize(("level", "noise"), [(0.1, 1e-4), (0.1, 1e-2), (1e-3, 1e-5), (0.1, 0.0)])
def test_pieces_lie_between_pauses(level, noise):
    found = cut(spoken(2, 0.5, 3, 0.4, 1, level=level, noise=noise))
    assert np.array(bounds(found)) == pytest.approx(np.array([(0, 2), (2.5, 5.5), (5.9, 6.9)]), abs=PAD + 0.03)
    assert not any(each.shared for each in found)


def test_speech_without_a_pause_long_enough_is_one_piece():
    waveform = spoken(2, 0.15, 3)
    (found,) = cut(waveform)
    assert (found.start, found.shared) == (0, 0)
    assert np.array_equal(found.waveform, waveform)


def test_silence_at_both_ends_is_left_out():
    found = cut(np.concatenate([np.zeros(RATE, np.float32), spoken(2), np.zeros(RATE, np.float32)]))
    assert np.array(bounds(found)) == pytest.approx(np.array([(1, 3)]), abs=PAD + 0.03)


def test_what_is_too_short_for_a_word_stays_with_the_one_before():
    found = cut(spoken(2, 0.4, 0.1, 0.6, 2))
    assert np.array(bounds(found)) == pytest.approx(np.array([(0, 2.5), (3.1, 5.1)]), abs=PAD + 0.03)


def test_a_long_pause_costs_nothing():
    found = cut(spoken(2, 100, 2))
    assert np.array(bounds(found)) == pytest.approx(np.array([(0, 2), (102, 104)]), abs=PAD + 0.03)


def test_speech_without_end_is_cut_where_it_is_quietest():
    waveform = spoken(70)
    soft = slice(round(20.2 * RATE), round(20.4 * RATE))
    waveform[soft] *= 0.5
    found = cut(waveform)
    assert bounds(found)[0][1] - MARGIN == pytest.approx(20.3, abs=0.1)
    assert [each.shared for each in found] == [0, *[2 * MARGIN * RATE] * (len(found) - 1)]
    for before, after in pairwise(found):
        assert (after.start - before.start) % STRIDE == 0
        assert before.start + len(before.waveform) == after.start + after.shared
    whole = np.concatenate([each.waveform[each.shared :] for each in found])
    assert np.array_equal(whole, waveform)


def test_what_turns_out_a_pause_only_after_the_cut_in_it_is_not_heard_twice():
    waveform = spoken(60)
    for at in np.arange(0.5, 20, 1.0):  # so deep that the softer place at 20 s is no pause beside them
        waveform[round(at * RATE) : round((at + 0.2) * RATE)] *= 1e-3
    waveform[round(20.2 * RATE) : round(20.6 * RATE)] *= 0.05
    waveform[40 * RATE : 42 * RATE] *= 0.03  # beside this one it is
    first, second, third = cut(waveform)
    assert first.start + len(first.waveform) == second.start + second.shared
    assert bounds([second, third])[0][1] == pytest.approx(40, abs=0.1)
    assert (third.start / RATE, third.shared) == (pytest.approx(42, abs=0.1), 0)


@pytest.mark.parametrize("seconds", [0, 40])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_steady_sound_has_no_pauses(seconds, level):
    waveform = spoken(seconds, level=level)
    found = cut(waveform)
    assert sum(len(each.waveform) - each.shared for each in found) == len(waveform)


parts = st.tuples(st.floats(0.05, 12), st.sampled_from([0.3, 0.1, 0.01, 1e-3, 1e-4, 0.0]))  # seconds, level


@given(st.lists(parts, min_size=1, max_size=16), st.integers(RATE // 2, 40 * RATE))
def test_pieces_are_parts_of_the_recording_however_it_comes(parts, size):
    waveform = np.concatenate([spoken(seconds, level=level) for seconds, level in parts])
    found = cut(waveform, size)
    assert bounds(found) == bounds(cut(waveform))
    after = 0
    for each in found:
        assert len(each.waveform) <= LONGEST * RATE
        assert np.array_equal(each.waveform, waveform[each.start : each.start + len(each.waveform)])
        assert each.start + each.shared == after if each.shared else each.start >= after, "nothing is heard twice"
        assert np.abs(waveform[after : each.start]).max(initial=0) < 1, "only what is quiet is left out"
        after = each.start + len(each.waveform)


def test_without_overlap_a_piece_holds_what_fits_of_speech_that_is_not_far_apart():
    waveform = spoken(1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5, 1, 4.5, 1, 0.5, 1, 5)
    found = list(pieces([waveform], RATE, STRIDE, 5.0, overlap=False))
    assert [(round(a, 1), round(b, 1)) for a, b in bounds(found)] == [(0.0, 4.1), (4.4, 7.1), (11.4, 14.1)]
    assert all(each.shared == 0 for each in found)


@pytest.mark.parametrize("longest", [2.0, 5.0])
def test_without_overlap_no_sample_of_speech_is_lost_or_taken_twice(longest):
    waveform = spoken(20)
    found = list(pieces([waveform], RATE, STRIDE, longest, overlap=False))
    assert np.array_equal(np.concatenate([each.waveform for each in found]), waveform)
    assert max(len(each.waveform) for each in found) <= longest * RATE
