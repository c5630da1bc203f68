import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablequant.report.lost_words import COLUMNS, SPEAKERS, WORST, Column, Row, Words, align

sentences = st.lists(st.sampled_from("ABCD"), max_size=8).map(" ".join)


def row(reference, heard, in_float=None, **known):
    return Row("a.wav", reference, heard, in_float, **known)


def test_words_stand_below_those_of_the_reference():
    columns = align("ONE TWO THREE", "ONE TOO THREE", "ZERO ONE TWO")
    assert columns == [
        Column("", ("", "ZERO")),
        Column("ONE", ("ONE", "ONE")),
        Column("TWO", ("TOO", "TWO")),
        Column("THREE", ("THREE", "")),
    ]
    assert [column.kinds for column in columns] == [
        ("hit", "insertion"),
        ("hit", "hit"),
        ("substitution", "hit"),
        ("hit", "deletion"),
    ]
    assert [column.changed for column in columns] == [True, False, True, True]


@given(sentences, sentences, sentences)
def test_an_alignment_holds_every_word_in_its_order_and_as_few_errors_as_there_are(reference, first, second):
    columns = align(reference, first, second)
    assert " ".join(column.reference for column in columns if column.reference) == reference
    for place, heard in enumerate((first, second)):
        assert " ".join(column.heard[place] for column in columns if column.heard[place]) == heard
        errors = sum(column.kinds[place] != "hit" for column in columns)
        found = jiwer.process_words(reference, heard)
        assert errors == found.substitutions + found.deletions + found.insertions


def test_the_worst_are_those_that_lost_most_to_quantization():
    words = Words([row("A B", "A B", "A B"), row("A B", "C C", "C C"), row("A B", "A", "A B"), row("A", "A", "B")])
    assert [(each.row.heard, each.errors) for each in words.worst()] == [("A", (0, 1)), ("C C", (2, 2))]
    assert len(Words([row("A", "B", "A")] * (WORST + 1)).worst()) == WORST


def test_kinds_of_errors_of_each_model():
    rows = [row("A B 7", "A C", "A B 7"), row("A B", "A B B " + "B " * 100, "A B"), row("", "A", "")]
    float_, quantized = Words(rows).kinds()
    assert (float_.model, float_.substitutions, float_.deletions, float_.insertions) == ("float", 0.0, 0.0, 0.0)
    assert (quantized.substitutions, quantized.deletions, quantized.insertions) == (20.0, 20.0, 2040.0)
    assert (float_.rare_recall, quantized.rare_recall) == (100.0, 0.0)
    assert (float_.looping, quantized.looping) == (0, 1)


def test_kinds_without_words_or_rare_words():
    assert Words([row("", "A")]).kinds() == []
    (found,) = Words([row("A A", "A")]).kinds()
    assert found.rare_recall is None


def test_utterances_that_repeat_themselves_are_told():
    words = Words([row("A", "B " * 100), row("A", "B")])
    assert [each.looping for each in words.worst()] == [True, False]


def test_a_long_utterance_is_shown_around_its_first_error():
    many = ["A"] * 1000
    (found,) = Words([row(" ".join(many), " ".join([*many[:500], "B", *many[501:]]))]).worst()
    assert len(found.columns) == COLUMNS
    assert found.left_out == 1000 - COLUMNS
    assert [column.kinds for column in found.columns].count(("substitution",)) == 1


def test_rates_of_parts_add_up():
    rows = [row("A B C D", "A B C D" if n % 2 else "A B C", "A B C D", seconds=float(n)) for n in range(10)]
    found = Words(rows).by_length()
    assert [group.name for group in found] == ["0.0 to 2.0 s", "3.0 to 5.0 s", "6.0 to 7.0 s", "8.0 to 9.0 s"]
    assert [group.utterances for group in found] == [3, 3, 2, 2]
    assert sum(group.wer[1] * group.words for group in found) / 100 == pytest.approx(5)
    assert [group.wer[0] for group in found] == [0.0] * 4
    assert all(group.points == group.wer[1] and group.ci95[0] <= group.points <= group.ci95[1] for group in found)


def test_utterances_of_one_length_are_one_part():
    (found,) = Words([row("A", "A", seconds=2.0)] * 9).by_length()
    assert (found.name, found.utterances) == ("2.0 to 2.0 s", 9)


def test_what_a_row_does_not_know_puts_it_in_no_group():
    rows = [row("A", "B", loudness=-20.0), row("A", "A"), row("", "A", speaker="x"), row("A", "A", speaker="y")]
    words = Words(rows)
    assert words.by_length() == []
    assert [(group.name, group.wer) for group in words.by_loudness()] == [("-20.0 to -20.0 dBFS", (100.0,))]
    (speaker,) = words.by_speaker()  # the other said no word
    assert (speaker.name, speaker.points, speaker.ci95) == ("y", None, None)


def test_the_speaker_who_loses_most_comes_first():
    rows = [row("A B", heard, "A B", speaker=name) for name, heard in (("x", "A B"), ("y", "C C"), ("z", "A C"))]
    assert [(group.name, group.points) for group in Words(rows).by_speaker()] == [("y", 100), ("z", 50), ("x", 0)]
    assert Words(rows).by_speaker()[0].ci95 is None, "one utterance says nothing of others"
    assert SPEAKERS < 50


def test_float_is_left_out_unless_every_row_has_it():
    words = Words([row("A", "A", "A"), row("A", "B")])
    assert words.models == ("quantized",)
    assert words.worst()[0].errors == (1,)


def test_transcripts_are_normalised_as_the_evaluation_did():
    assert Words([row("One, two", "one two")], "basic").worst() == []
    assert len(Words([row("One, two", "one two")]).worst()) == 1
