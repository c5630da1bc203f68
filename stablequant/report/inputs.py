"""What the page is made from, besides the plan: an evaluation's JSON, its predictions, the bytes of the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..evaluation.result import SCHEMA, Compared, Data, Delta, Gate, Measured, Result, cells, sentences
from ..foundation import reading
from ..foundation.errors import InputError
from ..foundation.options import NORMALIZERS
from .words import Row

OTHERS = "other tensors"


def evaluation(path: str, folder: str | None = None) -> dict[str, Any]:
    """The JSON of `sfm-quant eval --json` as {"rows": cells, head first, "lines": sentences, "normalize": name}.

    Where it is of several models, `folder` has to be one of them.
    """
    try:
        result = _result(reading.parsed(reading.text_of(Path(path), "what `sfm-quant eval --json` wrote")))
        _refuse_others(path, [each.model.path for each in result.models], folder)
        return {"rows": cells(result), "lines": list(sentences(result)), "normalize": result.normalize}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        why = f"no field {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not what `sfm-quant eval --json` writes ({why}); give that file") from error


def predictions(path: str, folder: str | None = None) -> tuple[Row, ...]:
    """The rows of `sfm-quant eval --predictions`; other manifests with `text` and `pred_text` do as well.

    Of the answers of several models those of `folder` are taken, in rows that name their models.
    """
    text = reading.text_of(Path(path), "what `sfm-quant eval --predictions` wrote")
    numbered = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    rows = tuple(_row(f"{path}:{number}", line, folder) for number, line in numbered)
    if not rows:
        raise InputError(f"{path}: no predictions in it; give the file that `sfm-quant eval --predictions` wrote")
    return rows


def layer_bytes(folder: Path, layers: Iterable[str]) -> dict[str, int]:
    """Bytes of the weights by layer, OTHERS last; empty when the folder has no weights."""
    sizes = dict.fromkeys((*layers, OTHERS), 0)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (it is no dictionary)
                    layer = next((each for each in sizes if name.startswith(f"{each}.")), OTHERS)
                    sizes[layer] += tensors.get_tensor(name).nbytes
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file}: cannot be read ({error}); copy the model again") from error
    return sizes if files else {}


def _result(data: dict[str, Any]) -> Result:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']} is not {SCHEMA}")
    if data["normalize"] not in NORMALIZERS:
        raise ValueError(f"no normalization {data['normalize']!r}")
    return Result(
        models=tuple(_compared(each) for each in data.get("models") or [_alone(data)]),
        baseline=reading.read(Measured, data["baseline"]) if data["baseline"] else None,
        data=reading.read(Data, data["data"]),
        environment=data["environment"],
        normalize=data["normalize"],
        warnings=tuple(data["warnings"]),
        predictions=(),
    )


def _alone(data: dict[str, Any]) -> dict[str, Any]:
    """The entry of the only model."""
    return {**data["model"], "delta": data["delta"], "gates": data["gates"]}


def _compared(entry: dict[str, Any]) -> Compared:
    model = {key: value for key, value in entry.items() if key not in ("delta", "gates")}
    delta = reading.read(Delta, entry["delta"]) if entry["delta"] else None
    return Compared(reading.read(Measured, model), delta, tuple(reading.read(Gate, gate) for gate in entry["gates"]))


def _row(place: str, line: str, folder: str | None) -> Row:
    try:
        data = reading.parsed(line)
        heard = f"pred_text{_suffix(place, data, folder)}"
        row = Row(
            name=str(data.get("audio_filepath", "")),
            reference=data["text"],
            heard=data[heard],
            heard_in_float=data.get("baseline_pred_text"),
            speaker=None if data.get("speaker") is None else str(data["speaker"]),
            seconds=_number(data.get("duration")),
            loudness=_number(data.get("loudness_dbfs")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{place}: not a row of `sfm-quant eval --predictions` ({type(error).__name__}: {error}); give that file"
        ) from error
    for text in (row.reference, row.heard, row.heard_in_float or ""):
        if not isinstance(text, str):
            raise InputError(f"{place}: a transcript is {text!r}, not a string; mend the row")
    return row


def _suffix(place: str, data: dict[str, Any], folder: str | None) -> str:
    """What the fields of the model in `folder` end with, in a row of several; one that stands alone may have moved."""
    named = {key.removeprefix("model"): value for key, value in data.items() if re.fullmatch(r"model(_\d+)?", key)}
    if folder is None or len(named) < 2:
        return ""
    _refuse_others(place, list(named.values()), folder)
    return next(suffix for suffix, path in named.items() if _same(path, folder))


def _refuse_others(place: str, models: list[Any], folder: str | None) -> None:
    """InputError when of several models none is the one in `folder`."""
    if folder is not None and len(models) > 1 and not any(_same(path, folder) for path in models):
        raise InputError(f"{place}: of {', '.join(map(str, models))}, none of {folder}; give that model's own")


def _same(path: Any, folder: str) -> bool:
    return Path(str(path)).resolve() == Path(folder).resolve()


def _number(value: Any) -> float | None:
    """A finite number, None where there is none (the loudness of silence)."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None
