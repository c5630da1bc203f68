"""Words and their frames, for every kind of vocabulary."""

import json
from itertools import pairwise

import numpy as np
import pytest
from transformers import Wav2Vec2CTCTokenizer

from stablequant.models.tasks import ctc_vocabulary, ctc_words
from stablequant.models.tasks.ctc_words import Span

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "L"]
SYMBOLS = ["<pad>", "<s>", "</s>", "<unk>", "|", " ONE", " TWO"]
CHARACTERS = ["<pad>", "<s>", "</s>", "<unk>", "你", "好"]


@pytest.fixture
def tokenizer(tmp_path):
    def build(vocabulary, **options):
        (tmp_path / "vocab.json").write_text(json.dumps({each: place for place, each in enumerate(vocabulary)}))
        return Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **options)

    return build


def said(vocabulary, path, tokenizer):
    """[(word, first frame, frame after the last)] of a path given by its symbols, _ for the blank."""
    places = [vocabulary.index("<pad>" if symbol == "_" else symbol) for symbol in path]
    return [
        (each.word, each.first, each.end)
        for each in ctc_words.words(np.array(places, int), ctc_words.alphabet(tokenizer))
    ]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("_AAB_|_BA_", [("AB", 1, 4), ("BA", 7, 9)]),
        ("AB", [("AB", 0, 2)]),
        ("|A||B|", [("A", 1, 2), ("B", 4, 5)]),
        ("A_||__|_B", [("A", 0, 1), ("B", 8, 9)]),
        ("_BALL_L_", [("BALL", 1, 7)]),  # a blank between them keeps two letters apart
        ("____", []),
        ("||", []),
        ("", []),
    ],
)
def test_letters_with_a_delimiter(tokenizer, path, words):
    assert said(LETTERS, path, tokenizer(LETTERS)) == words


@pytest.mark.parametrize(
    ("vocabulary", "options", "wrong"),
    [
        (LETTERS, {}, ["bal", "BAD"]),
        (LETTERS, {"do_lower_case": True}, ["BALL", "BAD", "ONE", "ONETWO"]),
        (SYMBOLS, {}, ["BALL", "bal", "BAD"]),
    ],
)
def test_words_that_the_vocabulary_cannot_spell(tokenizer, vocabulary, options, wrong):
    said = ["BALL", "bal", "BAD"] + (["ONE", "ONETWO"] if vocabulary is SYMBOLS or options else [])
    assert ctc_vocabulary.unwritable(said, tokenizer(vocabulary, **options)) == wrong


def test_a_symbol_for_each_word(tokenizer):
    path = ["_", " ONE", " ONE", " TWO", "_", " TWO", "|", " ONE"]
    words = [("ONE", 1, 3), ("TWO", 3, 4), ("TWO", 5, 6), ("ONE", 7, 8)]
    assert said(SYMBOLS, path, tokenizer(SYMBOLS)) == words


@pytest.mark.parametrize("options", [{}, {"word_delimiter_token": None}])
def test_without_a_delimiter_the_words_are_those_of_the_text(tokenizer, options):
    """A tokenizer that writes no spaces between symbols writes one word, which has the times of its symbols."""
    letters = [each.lower() for each in LETTERS if each != "|"]
    assert said(letters, "_aa_bba", tokenizer(letters, **options)) == [("aba", 1, 7)]


@pytest.mark.parametrize("vocabulary", [CHARACTERS, [*CHARACTERS, "|", "a", "b", "。"]])
def test_a_text_without_spaces_has_times_of_its_symbols(tokenizer, vocabulary):
    path = [vocabulary.index("<pad>" if symbol == "_" else symbol) for symbol in "_你你_好好你"]
    found = ctc_words.words(np.array(path), ctc_words.alphabet(tokenizer(vocabulary)))
    assert found == [Span("你", 1, 3), Span("好", 4, 6, joined=True), Span("你", 6, 7, joined=True)]


def test_a_text_of_both_kinds(tokenizer):
    mixed = [*CHARACTERS, "|", "a", "b", "。"]
    built, path = (
        tokenizer(mixed),
        [mixed.index("<pad>" if symbol == "_" else symbol) for symbol in "ab_|你_ab好。|_b"],
    )
    found = ctc_words.words(np.array(path), ctc_words.alphabet(built))
    shown = [("ab", False), ("你", False), ("ab", True), ("好。", True), ("b", False)]
    assert [(each.word, each.joined) for each in found] == shown
    assert [(each.first, each.end) for each in found] == [(0, 2), (4, 5), (6, 8), (8, 10), (12, 13)]


def test_text_is_written_as_the_tokenizer_writes_it(tokenizer):
    small = tokenizer(LETTERS, do_lower_case=True)
    assert said(LETTERS, "AB|BA", small) == [("ab", 0, 2), ("ba", 3, 5)]


@pytest.mark.parametrize("vocabulary", [LETTERS, SYMBOLS])
def test_words_are_those_of_the_whole_text(tokenizer, vocabulary):
    built, rng = tokenizer(vocabulary), np.random.default_rng(0)
    for _ in range(50):
        path = rng.choice([0, 0, *range(4, len(vocabulary))], 40)
        found = ctc_words.words(path, ctc_words.alphabet(built))
        assert [each.word for each in found] == ctc_words.decode(path, built).split()
        assert all(a.end <= b.first for a, b in pairwise(found))
