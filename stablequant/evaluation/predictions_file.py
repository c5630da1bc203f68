"""Write and read the lines of `sfm-quant eval --predictions`: the text of each model for each utterance.

A line is a row of a NeMo manifest. The first model's text is `pred_text`, with `model`, its path, and `time`, the
seconds of its timed run (null if the utterance is too short for one), `compression_ratio`, which is above 2.4 if the
text repeats itself (repetition.py), and `temperature` if a part was decoded again because it did. Further models have
`pred_text_2` and so on, the baseline has `baseline_pred_text`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

from ..foundation import strict_json
from ..foundation.errors import InputError
from ..models.tasks.repetition import compression_ratio

BASELINE = "baseline_{}"  # how its fields are named


@dataclass(frozen=True)
class ModelAnswer:
    """One model's text for an utterance."""

    model: str | None  # its path; None if the row does not name it
    text: str
    seconds: float | None  # that it took; None: not timed
    temperature: float = 0.0  # above 0 where a part repeated itself and was decoded again


@dataclass(frozen=True)
class Prediction:
    """An utterance with the answers of the models, in their order."""

    audio_filepath: str
    offset: float
    duration: float | None
    loudness_dbfs: float | None  # None: silence
    text: str
    speaker: str | None
    answers: tuple[ModelAnswer, ...]
    baseline: ModelAnswer | None = None


def to_jsonl(predictions: Iterable[Prediction]) -> str:
    return "".join(json.dumps(_to_row(each), ensure_ascii=False) + "\n" for each in predictions)


def read(path: str) -> Iterator[tuple[str, Prediction]]:
    """("FILE:LINE", prediction) of each row; other manifests with `text` and `pred_text` also work."""
    text = strict_json.text_of(Path(path), "what `sfm-quant eval --predictions` wrote")
    lines = [(f"{path}:{number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    yield from ((place, _from_line(place, line)) for place, line in lines)
    if not lines:
        raise InputError(f"{path}: contains no predictions; pass the file that `sfm-quant eval --predictions` wrote")


def _to_row(prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {
        "audio_filepath": prediction.audio_filepath,
        "offset": prediction.offset,
        "duration": prediction.duration,
        "loudness_dbfs": prediction.loudness_dbfs,
        "text": prediction.text,
    }
    if prediction.speaker is not None:
        row["speaker"] = prediction.speaker
    named = zip(_names(), prediction.answers, strict=False)
    for name, answer in (*named, *([(BASELINE, prediction.baseline)] if prediction.baseline else [])):
        row |= {
            name.format("model"): answer.model,
            name.format("pred_text"): answer.text,
            name.format("time"): answer.seconds,
            name.format("compression_ratio"): round(compression_ratio(answer.text), 3),
            **({name.format("temperature"): answer.temperature} if answer.temperature else {}),
        }
    return row


def _from_line(place: str, line: str) -> Prediction:
    try:
        row = strict_json.mapping(strict_json.parsed(line), "the row")
        found = Prediction(
            audio_filepath=str(row.get("audio_filepath", "")),
            offset=_number(row.get("offset")) or 0.0,
            duration=_number(row.get("duration")),
            loudness_dbfs=_number(row.get("loudness_dbfs")),
            text=row["text"],
            speaker=None if row.get("speaker") is None else str(row["speaker"]),
            answers=tuple(_answers(row)),
            baseline=_answer(row, BASELINE) if row.get(BASELINE.format("pred_text")) is not None else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{place}: not a row of `sfm-quant eval --predictions` ({type(error).__name__}: {error}); pass that file"
        ) from error
    answers = (*found.answers, *([found.baseline] if found.baseline else []))
    for text in (found.text, *(each.text for each in answers)):
        if not isinstance(text, str):
            raise InputError(f"{place}: a transcript is {text!r}, not a string; correct the row")
    return found


def _names() -> Iterator[str]:
    """The names of the fields of each model except the baseline, with {} for the field."""
    yield "{}"
    yield from (f"{{}}_{number}" for number in count(2))


def _answers(row: dict[str, Any]) -> Iterator[ModelAnswer]:
    """The answers of all models except the baseline; there is at least one."""
    more = takewhile(lambda name: name.format("pred_text") in row, islice(_names(), 1, None))
    yield from (_answer(row, name) for name in ("{}", *more))


def _answer(row: dict[str, Any], name: str) -> ModelAnswer:
    model = row.get(name.format("model"))
    return ModelAnswer(
        None if model is None else str(model),
        row[name.format("pred_text")],
        _number(row.get(name.format("time"))),
    )


def _number(value: Any) -> float | None:
    """A finite number, or None (the loudness of silence)."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None
