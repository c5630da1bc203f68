"""Low bits with training, on one page: a float model and recordings in, a quantized model that has learned out.

    calibrate -> student -> layer by layer -> end to end -> the same folder as calibrate's

The student computes what the engine will (quantization/training/), so nothing is lost when it is written. It learns
from the float model, its teacher, and needs no transcripts.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..foundation import files, interrupts, progress
from ..foundation.errors import InputError
from ..foundation.options import TuneOptions
from ..models import checkpoint
from ..models.checkpoint import histograms
from ..models.checkpoint.stored import stored_weights
from ..models.recognizer import Recognizer
from ..models.source import folder_bytes
from ..quantization.numerics.weight_grid import QTensor
from ..quantization.plan.choice import TRAINED, Measured, Quantized
from ..quantization.plan.entry import said, to_entry
from ..quantization.plan.plan import Plan, read_plan
from ..quantization.plan.site import canonical_weight
from ..quantization.search.forward_pass import CalibrationUtterance, Passages
from ..quantization.search.rounder import with_error
from ..quantization.training.distillation_data import Lessons, joined
from ..quantization.training.end_to_end import EndToEnd
from ..quantization.training.layerwise import LayerTraining
from ..quantization.training.resume import Done, Journal, of_kind, restore
from ..quantization.training.settings import TuneSettings
from ..quantization.training.student import Student
from .calibrate import calibrate, float_model
from .calibration_data import read_recordings

MOST_DEVELOPMENT = 32  # recordings that choose the best state, where DEV is not given
EVERY = 10  # of DATA are held out for that
RECORD = Path("evidence") / "training.jsonl"


@dataclass(frozen=True)
class Recordings:
    """What is trained on, what chooses the best state, and what the plan says of both."""

    training: list[CalibrationUtterance]
    development: list[CalibrationUtterance]
    about: dict[str, Any]


def tune(options: TuneOptions) -> dict[str, Any]:
    """Train a quantized form of a model and write it to `options.out`; returns the tune JSON."""
    checkpoint.check_destination(options.out)
    with checkpoint.claimed(Path(options.out)):
        return _tune(options)


def _tune(options: TuneOptions) -> dict[str, Any]:
    began = time.monotonic()
    teacher = float_model(options.model, options.target_lang, options.language)
    recordings = _recordings(options, teacher)
    checkpoint.tell_replaced(options.out)
    journal = Journal(_journal_folder(options.out), _fingerprint(options, teacher, recordings), resume=options.resume)

    start = _start(options, journal)
    plan = read_plan(start)
    student = Student(teacher, plan.quantized(), stored_weights(start, teacher.model, plan.quantized()))
    done = _train(options, student, recordings, journal)

    plan = _described(plan, student, recordings, done, options)
    checkpoint.write(
        student.trained(),
        plan,
        student.quantized()[1],
        Path(options.out),
        histograms.read(start),
        interrupts.settle,
        {RECORD: "".join(json.dumps(each) + "\n" for each in done.records)},
    )
    journal.remove()
    return _summary(options, plan, teacher, done, time.monotonic() - began)


def _train(options: TuneOptions, student: Student, recordings: Recordings, journal: Journal) -> Done:
    """Train layer by layer, then end to end, from where an earlier run stopped."""
    settings = _settings(options)
    done, tensors = journal.load()
    if tensors:
        student.load(of_kind(tensors, "now"))
    clock = _Clock(done.seconds)
    passages = Passages(student.teacher)
    lessons = Lessons(passages, _shared_windows(recordings.training, student.teacher), options.seed)
    development = Lessons(passages, recordings.development, options.seed)
    _layer_by_layer(options, student, lessons, settings, done, journal, clock)

    training = EndToEnd(student, lessons, development, settings, options.loss)
    if done.progress is None:
        points = training.begin()
        done.records.append({"stage": "end to end", "step": 0, "score": round(points, 4)})
    else:
        restore(training, done.progress, tensors)

    def checked(record: dict[str, Any]) -> None:
        done.records.append({"stage": "end to end", **record})
        done.progress, done.seconds = training.progress, clock.seconds()
        journal.save(done, student, training)

    share = _share(options, training, settings, clock)
    with progress.bar(desc="end to end", total=None if options.minutes else settings.steps, unit="step") as bar:
        bar.update(training.progress.step)
        finite = training.train(share, checked, bar)
    done.progress = training.progress
    if not finite:
        warnings.warn(
            f"the loss is no longer finite after {training.progress.step} steps, so training ended there; the best "
            "state before is written",
            stacklevel=1,
        )
    return done


def _settings(options: TuneOptions) -> TuneSettings:
    """The usual settings with the lengths that were asked for."""
    asked = {name: value for name in ("steps", "layer_steps") if (value := getattr(options, name)) is not None}
    return replace(TuneSettings(), **asked)


def _layer_by_layer(
    options: TuneOptions,
    student: Student,
    lessons: Lessons,
    settings: TuneSettings,
    done: Done,
    journal: Journal,
    clock: _Clock,
) -> None:
    if not settings.layer_steps:
        return
    with files.workspace(Path(options.out)) as folder:
        training = LayerTraining(student, lessons, settings, folder)
        left = [layer for layer in training.layers if layer not in done.layers]
        with progress.bar(desc="layer by layer", total=len(left) * settings.layer_steps, unit="step") as bar:
            for layer in left:
                bar.set_description(layer, refresh=False)
                done.records.append({"stage": "layer by layer", "layer": layer, **training.train(layer, bar)})
                done.layers.append(layer)
                done.seconds = clock.seconds()
                journal.save(done, student)


class _Clock:
    """Seconds of training, those of earlier runs counted."""

    def __init__(self, before: float) -> None:
        self.began = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self.began


def _share(options: TuneOptions, training: EndToEnd, settings: TuneSettings, clock: _Clock) -> Callable[[], float]:
    """How much of the training end to end is done: by its steps, or by time if that is limited."""
    if options.minutes is None:
        return lambda: training.progress.step / settings.steps
    first, last = clock.seconds(), 60 * options.minutes
    if first >= last:
        warnings.warn(
            f"--minutes {options.minutes:g} were over after training layer by layer; the model is written without "
            "training end to end",
            stacklevel=1,
        )
        return lambda: 1.0
    return lambda: (clock.seconds() - first) / (last - first)


def _recordings(options: TuneOptions, teacher: Recognizer) -> Recordings:
    """DATA and DEV, without what is in both; every tenth of DATA where there is no DEV."""
    needs = options.loss != "distill"
    found, about = read_recordings(options.calibration(options.data, options.out), teacher, None, text=needs)
    if options.dev is None:
        if len(found) < 2:
            raise InputError(f"{options.data}: training holds out recordings to choose the best state; pass 2 or more")
        every = max(EVERY, -(-len(found) // MOST_DEVELOPMENT)) if len(found) >= EVERY else 2
        kept = [each for n, each in enumerate(found) if n % every != every - 1]
        return Recordings(kept, [each for n, each in enumerate(found) if n % every == every - 1], about)
    development, of_dev = read_recordings(options.calibration(options.dev, options.out), teacher)
    if shared := set(about["audio_sha256"]) & set(of_dev["audio_sha256"]):
        raise InputError(
            f"{options.dev}: {len(shared)} of its recordings are in {options.data} too, so it cannot say what is "
            "learned; remove them from one of the two"
        )
    together = {**about, "audio_sha256": sorted({*about["audio_sha256"], *of_dev["audio_sha256"]})}
    return Recordings(found, development, {**together, "development": options.dev})


def _shared_windows(recordings: list[CalibrationUtterance], teacher: Recognizer) -> list[CalibrationUtterance]:
    window = teacher.geometry.window
    return recordings if window is None else joined(recordings, window, teacher.sampling_rate)


def _start(options: TuneOptions, journal: Journal) -> Path:
    """The quantized folder that training starts from: the one that was passed, or a calibration."""
    if options.start is not None:
        return Path(options.start)
    most = replace(options, max_samples=min(options.max_samples or 128, 128))
    calibrate(replace(most.calibration(options.data, str(journal.start)), resume=options.resume))
    return journal.start


def _journal_folder(out: str) -> Path:
    path = Path(out)
    return path.with_name(path.name + ".training")


def _fingerprint(options: TuneOptions, teacher: Recognizer, recordings: Recordings) -> dict[str, Any]:
    ignored = ("resume", "out", "skip_bad", "dev", "data", "model")
    return {
        **{name: value for name, value in asdict(options).items() if name not in ignored},
        "weights": checkpoint.weights_hash(teacher.model),
        "audio": recordings.about["audio_sha256"],
        "training": [each.key for each in recordings.training],
        "development": [each.key for each in recordings.development],
    }


def _described(plan: Plan, student: Student, recordings: Recordings, done: Done, options: TuneOptions) -> Plan:
    """The plan that training started from, with what was learned and how."""
    choices, weights = student.quantized()
    assert done.progress is not None
    about = {
        "loss": options.loss,
        "recordings": len(recordings.training),
        "development": len(recordings.development),
        "steps": done.progress.step,
        "layers": len(done.layers),
        "score_before": plan.score.get("whole_model"),
    }
    return replace(
        plan,
        sites={**plan.sites, **{name: _trained(student, name, choices[name], weights[name]) for name in choices}},
        score={**plan.score, "whole_model": round(done.progress.best, 6)},
        calibration={**plan.calibration, **recordings.about, "training": about},
    )


def _trained(student: Student, name: str, choice: Quantized, weight: QTensor) -> Quantized:
    """The choice for a site, without what was measured before its range or its weight changed."""
    if choice.input != student.sites[name].choice.input:
        choice = replace(choice, measured=Measured(probe_score=choice.measured.probe_score))
    float_weight = canonical_weight(student.teacher.model.get_submodule(name))
    return with_error(replace(choice, weight=replace(choice.weight, rounding=TRAINED)), float_weight, weight)


def _summary(options: TuneOptions, plan: Plan, teacher: Recognizer, done: Done, seconds: float) -> dict[str, Any]:
    return {
        "schema": 1,
        "plan": str(Path(options.out) / checkpoint.PLAN_FILE),
        "scheme": plan.scheme,
        "loss": options.loss,
        "sites": [{"name": name, **said(to_entry(choice))} for name, choice in plan.sites.items()],
        "average_bits": round(plan.average_bits(), 4),
        "score": plan.score,
        "training": plan.calibration["training"],
        "records": done.records,
        "seconds": round(seconds, 2),
        "bytes_before": teacher.bytes_on_disk,
        "bytes_float32": teacher.float32_bytes,
        "bytes_after": folder_bytes(Path(options.out)),
    }
