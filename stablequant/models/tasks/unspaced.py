"""Text without spaces between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer): where it may be cut.

Words of such text would need a dictionary. Its characters can be told apart: marks stay with what they mark,
punctuation with what it ends or begins, small kana and vowels with their syllable. Text of other scripts is never cut.
"""

from __future__ import annotations

import unicodedata

UNSPACED = (  # first and last character of blocks
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Burmese
    ("\u1780", "\u17ff"),  # Khmer
    ("\u2e80", "\u312f"),  # radicals, punctuation, kana, bopomofo
    ("\u31a0", "\u31ff"),
    ("\u3400", "\u9fff"),  # Han
    ("\uf900", "\ufaff"),
    ("\uff00", "\uffef"),  # full width
    ("\U00020000", "\U0003ffff"),  # Han
)
LEADING = frozenset("เแโใไເແໂໃໄ")  # vowels that are written before their consonant
FOLLOWING = frozenset("ะาๅำຳະາ々ーｰぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")
OPENING, MARKS = frozenset({"Ps", "Pi"}), frozenset({"Mn", "Mc", "Me", "Cf"})
CLOSING = frozenset({"Pe", "Pf", "Po", "Pd", "Pc"})


def cuts(text: str) -> set[int]:
    """The places between two characters of a text where it may be cut; 2 is behind the second one."""
    return {place for place in range(1, len(text)) if _parted(text[place - 1], text[place])}


def _parted(left: str, right: str) -> bool:
    if not (_unspaced(left) or _unspaced(right)) or left.isspace() or right.isspace():
        return False
    ends = unicodedata.category(right) in MARKS | CLOSING or right in FOLLOWING
    return not ends and left not in LEADING and unicodedata.category(left) not in OPENING


def _unspaced(character: str) -> bool:
    return any(first <= character <= last for first, last in UNSPACED)
