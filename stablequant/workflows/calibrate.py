"""The method on one page: a float model and recordings in, an integer model with its plan out.

    model -> sites -> statistics (one pass) -> planner -> Plan -> rounding -> integer weights -> folder

The planner decides (planners/stable.py is the paper's), with the tools of a `SearchSession`: ranges from the
histograms, scores of trials on the probe recordings, and their cost in float passes.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..foundation import interrupts
from ..foundation.errors import InputError
from ..foundation.options import LIMITS, CalibrateOptions
from ..foundation.strict_json import JsonObject
from ..models import checkpoint
from ..models.checkpoint import read
from ..models.checkpoint.verify import problems
from ..models.recognizer import Recognizer
from ..models.source import folder_bytes
from ..models.tasks.base import Decoding
from ..quantization.plan.plan import Plan, read_plan
from ..quantization.plan.site_entry import said, to_entry
from ..quantization.planners import edited
from ..quantization.planners.base import Planner, make_planner
from ..quantization.search.forward_pass import CalibrationUtterance
from ..quantization.search.resume import ResumeState, fingerprint_hash
from ..quantization.search.session import begin, sites_of
from .calibration_data import held_out, read_recordings


def calibrate(options: CalibrateOptions) -> JsonObject:
    """Quantize a model and write it to `options.out`; returns the calibrate JSON."""
    planner = make_planner(options.planner(), options)
    if isinstance(planner, edited.EditedPlan):
        options = planner.made_with(options)
    options = replace(options, out=checkpoint.check_destination(options.out))
    with checkpoint.claimed(Path(options.out)):
        return _calibrate(options, planner)


def _calibrate(options: CalibrateOptions, planner: Planner) -> JsonObject:
    recognizer = float_model(options.model, options.target_lang, options.language)
    planner.check(sites_of(recognizer))  # before the recordings are read, not after
    return quantize(options, planner, recognizer, *read_recordings(options, recognizer))


def quantize(
    options: CalibrateOptions,
    planner: Planner,
    recognizer: Recognizer,
    recordings: list[CalibrationUtterance],
    about: JsonObject,
) -> JsonObject:
    """Quantize a float model on recordings, which `about` describes, and write it; the folder is claimed already."""
    began = time.monotonic()
    fingerprint = _fingerprint(options, recognizer, recordings, about)
    about = {**about, "inputs_sha256": fingerprint_hash(fingerprint)}
    if options.resume and (plan := finished(options.out, about["inputs_sha256"])):
        if (folder := _journal_folder(options.out)).exists():
            ResumeState(folder, fingerprint, resume=True).remove()
        print(f"{options.out}: already complete; leave out --resume to calibrate again", file=sys.stderr)
        return _summary(options, plan, recognizer, plan.calibration["float_passes"], time.monotonic() - began)
    checkpoint.tell_replaced(options.out)
    journal = ResumeState(_journal_folder(options.out), fingerprint, options.resume)

    recordings, held_apart = held_out(recordings, options)
    session = begin(recognizer, recordings, journal, options, about, held_apart)
    plan, weights = session.rounder.round(planner.plan(session))
    plan = session.scored(plan, weights)
    for sentence in planner.remarks(plan):
        warnings.warn(sentence, stacklevel=1)

    checkpoint.write(recognizer, plan, weights, Path(options.out), session.histograms, interrupts.settle)
    journal.remove()
    return _summary(options, plan, recognizer, session.passes.spent, time.monotonic() - began)


def float_model(model: str, target_lang: str | None, language: str | None) -> Recognizer:
    """The recogniser to be quantized; InputError if it is quantized already."""
    recognizer = read.load(model, target_lang, Decoding(language))
    if recognizer.scheme != "float32":
        raise InputError(
            f"{model}: already quantized ({recognizer.scheme}); calibrate the float model it was made from"
        )
    for remark in recognizer.remarks:
        warnings.warn(remark, stacklevel=1)
    return recognizer


def _journal_folder(out: str) -> Path:
    path = Path(out)
    return path.with_name(path.name + ".calibration")


def finished(out: str, inputs: str) -> Plan | None:
    """The plan of the model at `out` if it is complete and was made from inputs with this hash: nothing is to do."""
    try:
        plan = read_plan(Path(out))
        return None if plan.calibration.get("inputs_sha256") != inputs or problems(Path(out)) else plan
    except InputError:  # no model, or a damaged one
        return None


def _fingerprint(
    options: CalibrateOptions,
    recognizer: Recognizer,
    recordings: Sequence[CalibrationUtterance],
    about: JsonObject,
) -> JsonObject:
    keep = ("scheme", "method", "score", "threshold", "seed", "group_size", "rounding", *LIMITS)
    return {
        **{key: getattr(options, key) for key in keep},
        **({} if options.plan is None else {"plan": edited.read(options.plan).wanted.to_json()}),
        **{key: value for key in ("language", "sparsity") if (value := getattr(options, key)) is not None},
        **writing(recognizer),
        "weights": checkpoint.weights_hash(recognizer.model),
        "audio": about["audio_sha256"],
        "recordings": [(each.key, each.text) for each in recordings],  # in their order: the journal counts them
    }


def writing(recognizer: Recognizer) -> JsonObject:
    """The settings by which a model writes the tokens that every model follows."""
    settings = getattr(recognizer.model, "generation_config", None)
    found = {} if settings is None else settings.to_diff_dict()
    return (
        {"generation": {name: value for name, value in found.items() if name != "transformers_version"}}
        if found
        else {}
    )


def _summary(
    options: CalibrateOptions, plan: Plan, recognizer: Recognizer, passes: float, seconds: float
) -> JsonObject:
    return {
        "schema": 1,
        "plan": str(Path(options.out) / checkpoint.PLAN_FILE),
        "scheme": plan.scheme,
        "method": plan.method,
        "selected_layers": [name for name, layer in plan.layers.items() if layer.selected],
        "sites": [{"name": name, **said(to_entry(choice))} for name, choice in plan.sites.items()],
        "skipped_bad": plan.calibration["skipped_bad"],
        "score": plan.score,
        "float_passes": round(passes, 2),
        "seconds": round(seconds, 2),
        "bytes_before": recognizer.bytes_on_disk,
        "bytes_float32": recognizer.float32_bytes,
        "bytes_after": folder_bytes(Path(options.out)),
        "target_lang": recognizer.target_lang,
        "remarks": list(recognizer.remarks),
        **{key: plan.calibration[key] for key in ("held_out",) if key in plan.calibration},
    }
