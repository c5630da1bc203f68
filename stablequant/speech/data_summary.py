"""A summary of a data set for `sfm-quant data`: layout, hours, speakers, lengths and problems.

It reads every recording's header and checks that its last second is there, without decoding: this takes seconds, where
an evaluation takes hours to find the one file that was copied only in part. Damage that only decoding shows (a broken
block in the middle) is not found here.
"""

from __future__ import annotations

from bisect import bisect_right
from statistics import median

from ..foundation import progress, registry
from ..foundation.errors import InputError
from ..foundation.strict_json import JsonObject
from ..foundation.tables import columns
from . import audio

EDGES = (0, 1, 2, 5, 10, 15, 20, 30, 60)  # seconds
BAR = 40  # characters of the fullest row


def summary(data: str) -> JsonObject:
    """The JSON of `sfm-quant data`; raises InputError only when there is no list to read."""
    found = audio.survey(data, require_text=False)
    lengths, problems, good = [], list(found.problems), []
    for utterance in progress.bar(found.utterances, desc="reading headers", unit="file"):
        try:
            lengths.append(audio.length(utterance))
            good.append(utterance)
        except InputError as error:
            problems.append(str(error))
    speakers = {each.speaker for each in good if each.speaker is not None}
    return {
        "schema": 1,
        "data": data,
        "layout": found.layout,
        "utterances": len(good),
        "transcripts": sum(each.text is not None for each in good),
        "speakers": len(speakers) if speakers else None,
        "hours": round(sum(lengths) / 3600, 6),
        "seconds": _seconds(lengths),
        "histogram": _histogram(lengths),
        "problems": problems,
    }


def table(found: JsonObject) -> str:
    """The summary for people; all problems, each on its line."""
    count, seconds = found["utterances"], found["seconds"]
    facts = [
        ("layout", f"{found['layout']}: {registry.get('layouts', found['layout']).TITLE}"),
        ("utterances", f"{count}, {found['transcripts']} with a transcript"),
        ("audio", _duration(found["hours"])),
        ("speakers", str(found["speakers"] or "unknown")),
    ]
    if seconds:
        facts += [("seconds", f"{seconds['min']:.2f} to {seconds['max']:.2f}, median {seconds['median']:.2f}")]
    lines = columns(facts)
    if seconds:
        lines += ["", *_bars(found["histogram"])]
    if problems := found["problems"]:
        lines += ["", f"problems    {len(problems)}", *(f"  {each}" for each in problems)]
    return "\n".join(lines)


def _seconds(lengths: list[float]) -> dict[str, float] | None:
    if not lengths:
        return None
    return {"min": round(min(lengths), 3), "median": round(median(lengths), 3), "max": round(max(lengths), 3)}


def _histogram(lengths: list[float]) -> list[JsonObject]:
    """How many utterances are at least `from` and less than `to` seconds long; null means no upper limit."""
    counts = [0] * len(EDGES)
    for each in lengths:
        counts[bisect_right(EDGES, each) - 1] += 1
    ends = (*EDGES[1:], None)
    return [{"from": low, "to": high, "utterances": n} for low, high, n in zip(EDGES, ends, counts, strict=True)]


def _bars(histogram: list[JsonObject]) -> list[str]:
    used = [place for place, each in enumerate(histogram) if each["utterances"]]
    shown = histogram[used[0] : used[-1] + 1]
    most = max(each["utterances"] for each in shown)
    counts = [(each, each["utterances"]) for each in shown]
    return columns([(_range(each), str(count), "#" * -(-BAR * count // most)) for each, count in counts], ">>")


def _range(bucket: JsonObject) -> str:
    return f"{bucket['from']}+ s" if bucket["to"] is None else f"{bucket['from']}-{bucket['to']} s"


def _duration(hours: float) -> str:
    minutes = 60 * hours
    return f"{hours:.2f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{60 * minutes:.1f} s"
