"""Rows of text as a table for the terminal, and a sentence that two of them have."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], align: str = "") -> list[str]:
    """One line per row, every column as wide as its widest cell; `align` has < or > for each, by default <.

    The last cell of a row that is shorter than the others is not padded.
    """
    full = max(map(len, rows), default=0)
    widths = [0] * full
    for row in rows:
        for place, cell in enumerate(row if len(row) == full else row[:-1]):
            widths[place] = max(widths[place], len(cell))
    sides = align.ljust(full, "<")
    return [
        "  ".join(
            cell if place == len(row) - 1 and len(row) < full else f"{cell:{sides[place]}{widths[place]}}"
            for place, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def score_sentence(points: float, unit: str) -> str:
    """The score of a whole plan, for people who do not know scores."""
    return f"score: {points:.3f} {unit}; lower is better, 0 = same as the float model"
