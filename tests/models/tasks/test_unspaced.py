"""Where text without spaces may be cut."""

from itertools import pairwise

import pytest

from stablequant.models.tasks.unspaced import cuts

CASES = {  # with | where it may be cut
    "Chinese": "我|们|走。",
    "punctuation": "「你|好」，|他|说：|“是！”",
    "Japanese": "きょ|う|は|コー|ヒー|を",
    "small kana": "チャッ|ト",
    "Thai": "ส|วั|ส|ดี|เป็|น|ไท|ย",
    "with English": "我|用|Python|写|code。",
    "numbers": "第|12|章",
    "with spaces": "你|好 再|见",
    "English": "don't stop, 12.5 %",
    "Korean": "안녕하세요 여러분",
    "Greek": "καλημέρα",
    "nothing": "",
}


@pytest.mark.parametrize("shown", CASES.values(), ids=CASES)
def test_characters_are_told_apart_and_what_belongs_together_is_not(shown):
    text = shown.replace("|", "")
    places = [0, *sorted(cuts(text)), len(text)]
    assert "|".join(text[a:b] for a, b in pairwise(places)) == shown
