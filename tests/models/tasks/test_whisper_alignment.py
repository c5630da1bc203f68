"""When words are spoken, by a matrix of attention that a test makes."""

import itertools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tiny
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from stablequant.models.tasks import whisper_alignment
from stablequant.models.tasks.base import text_of

STEP = 0.02


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """The words of a text when each of its tokens, and the end, attends to the steps that a matrix says."""
    recognizer = tiny.recognizer("whisper", "multilingual", tmp_path=tmp_path)
    [spoken] = recognizer.recognise([tiny.wave(1, tiny.RATE)])
    encode = recognizer.processor.tokenizer.encode

    def words(text, matrix):
        tokens = tuple(encode(text, add_special_tokens=False))
        matrix = matrix(len(tokens) + 1) if callable(matrix) else matrix
        assert len(matrix) == len(tokens) + 1
        before = np.zeros((spoken.prompt.shape[1] - 1, matrix.shape[1]))
        monkeypatch.setattr(whisper_alignment, "_attention", lambda *_: np.concatenate([before, matrix])[None])
        monkeypatch.setattr(whisper_alignment, "_steps", lambda _: matrix.shape[1])
        return replace(spoken, tokens=tokens).words()

    return words


def attention(*spans):
    """A row for each token, and for the end: 1 in its span of steps, little elsewhere."""
    rows = np.full((len(spans), max(end for _, end in spans)), 0.01)
    for row, (first, end) in zip(rows, spans, strict=True):
        row[first:end] = 1.0
    return rows


def one_by_one(tokens):
    """Ten steps for each token."""
    return attention(*((10 * n, 10 * n + 10) for n in range(tokens)))


def test_a_word_lasts_until_the_next_one_begins(timed):
    found = timed("ab c", one_by_one)
    assert [each.word for each in found] == ["ab", "c"]
    assert [time for each in found for time in (each.start, each.end)] == pytest.approx(
        [0.0, 30 * STEP, 30 * STEP, 40 * STEP], abs=3 * STEP
    )


@pytest.mark.parametrize("sign", [",", ".", "?", "...", "。"])
def test_punctuation_before_a_pause_does_not_take_the_time_of_the_next_word(sign, timed):
    """It attends to the pause and, a little more than that word itself, to what follows the pause."""
    size = len(sign.encode())
    rows = attention((0, 10), *[(10, 50)] * size, (30, 50), (30, 50), (50, 60))
    rows[1 : 1 + size] *= 1.2
    a, b = timed(f"a{sign} b", rows)
    assert (a.word, b.word) == (f"a{sign}", "b")
    assert b.start <= 35 * STEP
    assert b.end == pytest.approx(50 * STEP, abs=4 * STEP)


def test_punctuation_that_stands_alone_is_a_word(timed):
    found = timed("a - b", one_by_one)
    assert [each.word for each in found] == ["a", "-", "b"]


@pytest.mark.parametrize("seed", range(40))
def test_every_word_has_a_time_and_lies_behind_the_one_before(seed, timed):
    """Whatever the attention is, also where several words attend to one step, or there are more words than steps."""
    rng = np.random.default_rng(seed)
    parts, steps = rng.choice(["A", "BC", "D,", "-", "我", "们。"], rng.integers(1, 9)), int(rng.integers(1, 40))
    found = timed(" ".join(parts), lambda rows: rng.random((rows, steps)) ** rng.integers(1, 9))
    assert text_of(found) == " ".join(parts)
    assert all(0 <= each.start < each.end <= steps * STEP + 1e-9 for each in found)
    assert all(a.end == b.start for a, b in pairwise(found))


@pytest.mark.parametrize("seed", range(8))
def test_the_path_is_that_of_transformers(seed):
    rng = np.random.default_rng(seed)
    cost = rng.standard_normal((int(rng.integers(1, 30)), int(rng.integers(1, 60))))
    rows, columns = _dynamic_time_warping(cost)
    jumps = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    assert whisper_alignment._first_steps(cost).tolist() == columns[jumps].tolist()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("我们走。再见", ["我", "们", "走。", "再", "见"]),
        ("你好 ABC的 B", ["你", "好", "ABC", "的", "B"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("A BC. D", ["A", "BC.", "D"]),
    ],
)
def test_text_without_spaces_has_times_of_its_characters(text, parts, timed):
    """A byte is a token here, and ten steps."""
    found = timed(text, one_by_one)
    assert [each.word for each in found] == parts
    assert text_of(found) == text
    places = itertools.accumulate(len(part.encode()) for part in parts)
    spaces = itertools.accumulate(not each.joined for each in found[1:])
    expected = [0, *((place + space) * 10 * STEP for place, space in zip(places, spaces, strict=False))]
    assert [each.start for each in found] == pytest.approx(expected, abs=12 * STEP)
