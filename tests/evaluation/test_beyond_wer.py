import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablequant.evaluation import beyond_wer, error_rates
from stablequant.models.tasks.repetition import THRESHOLD, WINDOW, compression_ratio, loops

sentences = st.lists(st.sampled_from(["a", "b", "C", "4", "é"]), max_size=6).map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (["to be or not to be"], {"or", "not"}),
        (["The cat", "the dog", "a dog, a cat."], set()),  # case and punctuation make no other word
        (["flight 747 and 747", "and ②"], {"flight", "747", "②"}),  # a number is always rare
        (["Ångström – well", "well"], {"Ångström"}),  # a dash is no word
        (["", ""], set()),
        (["don't stop", "don’t"], {"don't", "stop", "don’t"}),
    ],
)
def test_which_words_are_rare(references, expected):
    assert beyond_wer.rare_words(references) == expected


def test_counts_of_known_edits():
    references, hypotheses = ["ask Ann about 42", "ask Bo", ""], ["ask an about about 42", "ask", "Ann"]
    rare = beyond_wer.rare_words(references)
    found = beyond_wer.count_rare(references, hypotheses, rare)
    assert rare == {"Ann", "about", "42", "Bo"}
    assert found.hits.tolist() == [2, 0, 0]
    assert found.substitutions.tolist() == [1, 0, 0]
    assert found.deletions.tolist() == [0, 1, 0]
    assert found.insertions.tolist() == [0, 0, 0]
    assert beyond_wer.recall(found)[0] == 50.0


@given(pairs)
def test_if_every_word_is_rare_the_counts_are_those_of_all_words(texts):
    references, hypotheses = zip(*texts, strict=True)
    rare = frozenset(word for reference in references for word in reference.split())
    found, every = beyond_wer.count_rare(references, hypotheses, rare), error_rates.count_words(references, hypotheses)
    for name in ("hits", "substitutions", "deletions"):
        assert getattr(found, name).tolist() == getattr(every, name).tolist()
    assert beyond_wer.count_rare(references, hypotheses, frozenset()).units.sum() == 0


def test_gain_is_the_difference_of_the_recalls_and_pairs_the_utterances():
    references = [f"name{place}" for place in range(40)]
    better = [text if place % 4 else "" for place, text in enumerate(references)]  # 75 %
    worse = [text if place % 2 else "" for place, text in enumerate(references)]  # 50 %
    rare = beyond_wer.rare_words(references)
    ours, theirs = (beyond_wer.count_rare(references, each, rare) for each in (worse, better))
    points, (low, high) = beyond_wer.gain(ours, theirs)
    assert points == beyond_wer.recall(ours)[0] - beyond_wer.recall(theirs)[0] == -25.0
    assert low < points < high < 0.0
    assert beyond_wer.gain(theirs, theirs) == (0.0, (0.0, 0.0))
    assert not np.signbit(beyond_wer.gain(theirs, theirs)[0]), "no -0.0"


def test_recall_lies_in_its_interval():
    references = [f"name{place}" for place in range(40)]
    found = beyond_wer.count_rare(references, [*references[:30], *[""] * 10], beyond_wer.rare_words(references))
    percent, (low, high) = beyond_wer.recall(found)
    assert percent == 75.0
    assert 55 < low < 75 < high < 95


def test_without_rare_words_nothing_is_said():
    none = beyond_wer.count_rare(["a"], ["a"], frozenset())
    assert (beyond_wer.recall(none), beyond_wer.gain(none, none)) == (None, None)


# ---- loops

LICENSE = " ".join((Path(__file__).parents[2] / "LICENSE").read_text().split())  # plain words, 11 kB


def whispers(text):
    content = text.encode()
    return len(content) / len(zlib.compress(content))


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=WINDOW // 4))
def test_ratio_of_what_a_window_holds_is_whispers(text):
    assert compression_ratio(text) == whispers(text)


def test_long_text_without_a_loop():
    assert whispers(LICENSE) > THRESHOLD
    assert not loops(LICENSE)


@pytest.mark.parametrize("start", [0, 700, 5000])
def test_loop_of_one_window_in_a_long_text(start):
    looping = (LICENSE[start : start + 30] + " ") * 30
    assert loops(LICENSE[:5000] + looping + LICENSE[5000:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("ONE TWO THREE", False),
        ("thank you " * 2, False),
        ("thank you " * 20, True),
        ("ご視聴ありがとうございました" * 10, True),
        ("a" * 2000, True),
        ("\udcff" * 500, True),
    ],
)
def test_loops(text, expected):
    assert loops(text) == expected
