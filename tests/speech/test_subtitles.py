"""Subtitles: what is in a cue, and how its lines are cut."""

import itertools
import re

import pytest

from stablequant.models.tasks.base import Word, text_of
from stablequant.speech.subtitles import subtitles

SENTENCE = "the quick brown fox jumps over the lazy dog and runs away from it all the way home again".split()  # noqa: SIM905
CHINESE = "今天天气很好我们一起去公园散步然后回家吃饭晚上再看一部电影你觉得怎么样呢我觉得这个主意非常不错"
THAI = "สวัสดีครับวันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะแล้วค่อยกลับบ้านมากินข้าวเย็นด้วยกันนะครับ"


def spoken(words, step=0.2, joined=False):
    """Words one after another."""
    return [Word(word, n * step, (n + 1) * step, joined and n > 0) for n, word in enumerate(words)]


def cues(words, format="srt"):
    """[(start, end, lines)]"""
    found = []
    for cue in re.split(r"\n\n", subtitles(words, format).removeprefix("WEBVTT\n\n").strip()):
        lines = cue.splitlines()[format == "srt" :]
        times = [[float(part.replace(",", ".")) for part in clock.split(":")] for clock in lines[0].split(" --> ")]
        found.append((*(3600 * h + 60 * m + s for h, m, s in times), lines[1:]))
    return found


@pytest.mark.parametrize("format", ["srt", "vtt"])
@pytest.mark.parametrize(
    ("words", "longest"),
    [
        (spoken(SENTENCE), 42),
        (spoken(SENTENCE * 4, step=0.02), 42),
        (spoken(CHINESE, joined=True), 16),
        (spoken(CHINESE * 3, step=0.05, joined=True), 16),
        (spoken("一二三四五六七八九十ABCDEFG" * 3, step=0.05, joined=True), 42),
    ],
    ids=["words", "fast words", "characters", "fast characters", "mixed"],
)
def test_a_cue_has_two_lines_that_fit_and_nothing_is_lost(words, longest, format):
    found = cues(words, format)
    assert all(len(lines) <= 2 and max(map(len, lines)) <= longest for _, _, lines in found)
    assert all(start < end <= start + 6.0005 for start, end, _ in found)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))
    assert "".join("".join(lines) for _, _, lines in found).replace(" ", "") == text_of(words).replace(" ", "")
    assert len(found) > 1


def test_lines_are_full_before_a_cue_ends():
    """Not one character in each."""
    assert all(len("".join(lines)) > 24 for _, _, lines in cues(spoken(CHINESE * 3, step=0.05, joined=True))[:-1])


def test_two_lines_are_about_equal():
    [(_, _, lines)] = cues(spoken(SENTENCE[:10]))
    assert lines == ["the quick brown fox jumps", "over the lazy dog and"]


def test_what_fits_one_line_is_one():
    assert cues(spoken(["Hello", "there."])) == [(0.0, 0.4, ["Hello there."])]


def test_marks_take_no_room():
    """A Thai line holds 42 letters, and the vowels and tones above and below them besides."""
    letters = re.findall(r"[฀-๿][ัิ-ฺ็-๎]*", THAI)
    lines = [line for _, _, lines in cues(spoken(letters, step=0.02, joined=True)) for line in lines]
    assert max(map(len, lines)) > 42
    assert max(len(re.sub(r"[ัิ-ฺ็-๎]", "", line)) for line in lines) <= 42


def test_a_pause_and_the_end_of_a_sentence_part_cues():
    first = spoken(["One", "two."])
    assert len(cues([*first, Word("Three", 1.2, 1.4)])) == 2
    assert len(cues([*first, Word("Three", 0.9, 1.4)])) == 1
    sentence = spoken([*SENTENCE[:9], "end."], step=0.1)
    assert [len(lines) for *_, lines in cues([*sentence, Word("Next", 1.0, 1.2)])] == [2, 1]


def test_a_word_longer_than_a_line_is_left_whole():
    assert cues([Word("x" * 100, 0.0, 1.0), Word("y", 1.0, 1.1)]) == [(0.0, 1.0, ["x" * 100]), (1.0, 1.1, ["y"])]


def test_nothing_said_is_no_cue():
    assert subtitles([], "srt") == ""
    assert subtitles([], "vtt") == "WEBVTT\n"


def test_text_is_escaped_for_vtt_only():
    words = [Word("<b>&", 0.0, 1.0)]
    assert "&lt;b&gt;&amp;" in subtitles(words, "vtt")
    assert "<b>&" in subtitles(words, "srt")
