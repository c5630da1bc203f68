"""The inputs of the page besides the plan: an evaluation's JSON, its predictions, the bytes of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..evaluation.predictions_file import ModelAnswer, Prediction, read
from ..evaluation.result import SCHEMA, Compared, Data, Delta, Gate, Measured, Result, cells, sentences
from ..foundation import strict_json
from ..foundation.errors import InputError
from ..foundation.options import NORMALIZERS
from ..foundation.strict_json import JsonObject
from .lost_words import Row

OTHERS = "other tensors"


def evaluation(path: str, folder: str | None = None) -> JsonObject:
    """The JSON of `sfm-quant eval --json` as {"rows": cells, head first, "lines": sentences, "normalize": name}.

    If it is of several models, `folder` must be one of them.
    """
    text = strict_json.text_of(Path(path), "what `sfm-quant eval --json` wrote")
    try:
        result = _result(strict_json.mapping(strict_json.parsed(text), "the result"))
        _refuse_others(path, [each.model.path for each in result.models], folder)
        return {"rows": cells(result), "lines": list(sentences(result)), "normalize": result.normalize}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        why = f"no field {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path}: not a file that `sfm-quant eval --json` writes ({why}); pass such a file"
        ) from error


def predictions(path: str, folder: str | None = None) -> tuple[Row, ...]:
    """The rows of `sfm-quant eval --predictions`; of several models, only the answers of the one in `folder`."""
    return tuple(_row(each, _answer(place, each, folder)) for place, each in read(path))


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


def _result(data: JsonObject) -> Result:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']} is not {SCHEMA}")
    if data["normalize"] not in NORMALIZERS:
        raise ValueError(f"no normalization {data['normalize']!r}")
    return Result(
        models=tuple(_compared(each) for each in data.get("models") or [_alone(data)]),
        baseline=strict_json.read(Measured, data["baseline"]) if data["baseline"] else None,
        data=strict_json.read(Data, data["data"]),
        environment=data["environment"],
        normalize=data["normalize"],
        decoding=data.get("decoding"),
        warnings=tuple(data["warnings"]),
        predictions=(),
    )


def _alone(data: JsonObject) -> JsonObject:
    """The entry of the only model."""
    return {**data["model"], "delta": data["delta"], "gates": data["gates"]}


def _compared(entry: JsonObject) -> Compared:
    model = {key: value for key, value in entry.items() if key not in ("delta", "gates")}
    delta = strict_json.read(Delta, entry["delta"]) if entry["delta"] else None
    return Compared(
        strict_json.read(Measured, model), delta, tuple(strict_json.read(Gate, gate) for gate in entry["gates"])
    )


def _row(prediction: Prediction, answer: ModelAnswer) -> Row:
    return Row(
        name=prediction.audio_filepath,
        reference=prediction.text,
        heard=answer.text,
        heard_in_float=None if prediction.baseline is None else prediction.baseline.text,
        speaker=prediction.speaker,
        seconds=prediction.duration,
        loudness=prediction.loudness_dbfs,
    )


def _answer(place: str, prediction: Prediction, folder: str | None) -> ModelAnswer:
    """The answer of the model in `folder`; with only one model, its folder may have moved."""
    answers = prediction.answers
    if folder is None or len(answers) < 2:
        return answers[0]
    _refuse_others(place, [each.model for each in answers], folder)
    return next(each for each in answers if _same(each.model, folder))


def _refuse_others(place: str, models: Sequence[object], folder: str | None) -> None:
    """InputError if none of several models is the one in `folder`."""
    if folder is not None and len(models) > 1 and not any(_same(path, folder) for path in models):
        raise InputError(f"{place}: is about {', '.join(map(str, models))}, not {folder}; pass that model's file")


def _same(path: object, folder: str) -> bool:
    return Path(str(path)).resolve() == Path(folder).resolve()
