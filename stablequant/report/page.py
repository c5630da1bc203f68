"""The report: one page that needs no other file, no network and no script.

A section whose input is missing says which command provides it. The template escapes every text; only the plots, which
escape their own text, are inserted as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from ..engines.onednn.operators.stopwatch import time_split
from ..evaluation.environment import environment
from ..foundation.errors import InputError
from ..models.checkpoint import histograms, read
from ..quantization.plan import table
from ..quantization.plan.plan import of_draft
from ..quantization.plan.plan_file import PLAN_FILE, Draft
from . import inputs, layers
from .lost_words import SPEAKERS, Words

TEMPLATE = Path(__file__).with_name("page.html")
SECONDS = 10  # of noise that the time is measured on


def page(folder: str, result: str | None = None, predictions: str | None = None, timing: bool = True) -> str:
    """The HTML report of a quantized folder.

    `result` and `predictions` are what `sfm-quant eval` wrote to --json and --predictions. Raises InputError for a
    file that cannot be used, and when the extra `report` is not installed.
    """
    jinja2 = _library()
    plan = table.plan_of(folder)
    evaluation = inputs.evaluation(result, folder) if result else None
    normalize = evaluation["normalize"] if evaluation else "none"
    context = {
        "name": Path(folder).resolve().name,
        "summary": list(table.summary(plan)),
        "evaluation": evaluation,
        "normalize": normalize,
        "words": _words(Words(inputs.predictions(predictions, folder), normalize)) if predictions else None,
        **_layers(plan, Path(folder)),
        "time": _time(folder) if timing else None,
    }
    return _rendered(jinja2, context)


def _library() -> ModuleType:
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the report needs {error.name}, which is not installed; run pip install 'stablequant[report]'"
        ) from error
    return jinja2


def _rendered(jinja2: ModuleType, context: Mapping[str, object]) -> str:
    settings = dict.fromkeys(("autoescape", "trim_blocks", "lstrip_blocks", "keep_trailing_newline"), True)
    environment = jinja2.Environment(**settings, undefined=jinja2.StrictUndefined)
    text: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)
    return text


def _words(words: Words) -> dict[str, object]:
    from . import panels

    speakers = words.by_speaker()
    groups = {"length": words.by_length(), "speaker": speakers[:SPEAKERS], "loudness": words.by_loudness()}
    return {
        "models": words.models,
        "kinds": words.kinds(),
        "worst": words.worst(),
        "utterances": len(words.rows),
        "groups": [
            (name, found, panels.of_groups(f"Word error rate by {name}, %", found, words.models))
            for name, found in groups.items()
        ],
        "speakers_left_out": max(0, len(speakers) - SPEAKERS),
    }


def _layers(draft: Draft, folder: Path) -> dict[str, object]:
    from . import panels

    plan = of_draft(draft, str(folder / PLAN_FILE))
    names = dict.fromkeys(choice.layer for choice in plan.sites.values())
    sizes = inputs.layer_bytes(folder, names)
    rows = layers.layers(plan, sizes)
    return {
        "layers": rows,
        "other_bytes": sizes.get(inputs.OTHERS),
        "plots": list(panels.of_layers(plan, rows)),
        "sites": draft.sites,
        "histograms": panels.of_histograms(layers.seen(plan, histograms.read(folder)), rows),
    }


def _time(folder: str) -> dict[str, object]:
    from . import panels

    recognizer = read.load(folder)
    noise = np.random.default_rng(0).standard_normal(SECONDS * recognizer.sampling_rate).astype(np.float32)
    passed = recognizer.inputs(noise)
    split = time_split(lambda: recognizer.logits(passed))
    about = environment(0)
    return {
        "panel": panels.of_time(split),
        "milliseconds": sum(split.values()),
        "seconds": SECONDS,
        "notices": recognizer.notices,
        **{key: about[key] for key in ("cpu", "threads", "kernels", "attention")},
    }
