"""Low bits with training, on one page: a float model and recordings in, a quantized model that has learned out.

    calibrate -> student -> layer by layer -> end to end -> the same folder as calibrate's

The student computes what the engine will (quantization/training/), so nothing is lost when it is written. It learns
from the float model, its teacher, and needs no transcripts.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..foundation import files, interrupts
from ..foundation.errors import InputError
from ..foundation.options import TuneOptions
from ..foundation.strict_json import JsonObject
from ..models import checkpoint
from ..models.checkpoint import histograms
from ..models.checkpoint.stored import stored_vectors, stored_weights
from ..models.checkpoint.verify import checksums, problems
from ..models.recognizer import Recognizer
from ..models.source import folder_bytes
from ..quantization.numerics.weight_grid import QTensor
from ..quantization.plan.choice import TRAINED, Measured, Quantized
from ..quantization.plan.plan import Plan, read_plan
from ..quantization.plan.site import canonical_weight
from ..quantization.plan.site_entry import said, to_entry
from ..quantization.planners.base import Planner, make_planner
from ..quantization.search.choices import Choices
from ..quantization.search.forward_pass import CalibrationUtterance, Passages
from ..quantization.search.resume import fingerprint_hash
from ..quantization.search.rounder import with_error
from ..quantization.search.session import sites_of
from ..quantization.training.resume import Done, Journal
from ..quantization.training.settings import TuneSettings
from ..quantization.training.stages import Stages
from ..quantization.training.student import Student
from ..quantization.training.width_search import candidates
from .calibrate import finished, float_model, quantize, writing
from .calibration_data import about_part, hashes
from .training_data import Recordings, read_training_data

MOST_CALIBRATED = 128  # recordings that the start is calibrated on
RESERVED = 1.001  # of a compression that is asked for: the plan of a trained model has more lines
SAME = 0.05  # dB between an error of rounding that a plan states and the one that is found
RECORD = Path("evidence") / "training.jsonl"


def tune(options: TuneOptions) -> JsonObject:
    """Train a quantized form of a model and write it to `options.out`; returns the tune JSON."""
    options = replace(options, out=checkpoint.check_destination(options.out))
    with checkpoint.claimed(Path(options.out)):
        return _tune(options)


def _tune(options: TuneOptions) -> JsonObject:
    began = time.monotonic()
    teacher = float_model(options.model, options.target_lang, options.language)
    planner = _planner(options, teacher)
    recordings = read_training_data(options, teacher)
    fingerprint = _fingerprint(options, teacher, recordings)
    if options.resume and (plan := finished(options.out, fingerprint_hash(fingerprint))):
        shutil.rmtree(_journal_folder(options.out), ignore_errors=True)
        print(f"{options.out}: already complete; leave out --resume to train again", file=sys.stderr)
        return _summary(options, plan, teacher, _records(Path(options.out)), time.monotonic() - began)
    if options.start is not None:  # before an unfinished training makes room
        _stored(Path(options.start), teacher, read_plan(Path(options.start)))
    checkpoint.tell_replaced(options.out)
    journal = Journal(_journal_folder(options.out), fingerprint, resume=options.resume)

    start, records = _start(options, planner, teacher, recordings, journal), []
    if options.learns_widths():
        start = _with_learned_widths(options, start, teacher, recordings, journal)
        records = _records(start)
    plan = read_plan(start)
    student = Student(teacher, plan.quantized(), *_stored(start, teacher, plan))
    done = _stages(options, student, journal).train(recordings.training, recordings.development)
    records += done.records

    plan = _described(plan, student, recordings, done, options, fingerprint_hash(fingerprint))
    checkpoint.write(
        student.trained(),
        plan,
        student.quantized()[1],
        Path(options.out),
        histograms.read(start),
        interrupts.settle,
        _record_file(records),
    )
    journal.remove()
    return _summary(options, plan, teacher, records, time.monotonic() - began)


def _planner(options: TuneOptions, teacher: Recognizer) -> Planner | None:
    """What calibrates the start, if there is none: it may refuse before the recordings are read."""
    if options.start is not None:
        return None
    of_start = options.calibration(options.data, options.out)
    planner = make_planner(of_start.planner(), of_start)
    planner.check(sites_of(teacher))
    return planner


def _start(
    options: TuneOptions,
    planner: Planner | None,
    teacher: Recognizer,
    recordings: Recordings,
    journal: Journal,
) -> Path:
    """The quantized folder that training starts from: the one that was passed, or a calibration."""
    if planner is None:
        return Path(str(options.start))
    if journal.start.exists():  # it is complete: an earlier run wrote it
        return journal.start
    resume = options.resume and journal.calibration.exists()
    chosen = _calibrating(options, recordings.training)
    about = about_part(recordings.about, chosen, teacher.sampling_rate)
    heard = sorted(hashes([*recordings.training, *recordings.development]))  # what the result will list, in its bytes
    of_start = options.calibration(options.data, str(journal.start))
    if of_start.target_compression is not None:
        of_start = replace(of_start, target_compression=of_start.target_compression * RESERVED)
    with checkpoint.claimed(journal.start):
        of_start, about = replace(of_start, resume=resume), {**about, "audio_sha256": heard}
        quantize(of_start, planner, teacher, chosen, about)
    return journal.start


def _calibrating(options: TuneOptions, recordings: list[CalibrationUtterance]) -> list[CalibrationUtterance]:
    """The recordings that the start is calibrated on, in their order."""
    drawn = np.random.default_rng(options.seed).permutation(len(recordings))[:MOST_CALIBRATED]
    return [recordings[place] for place in sorted(drawn)]


def _with_learned_widths(
    options: TuneOptions, start: Path, teacher: Recognizer, recordings: Recordings, journal: Journal
) -> Path:
    """The folder of a start whose weights have the bits that were learned, in as many bytes as it has."""
    if journal.widths.exists():  # an earlier run wrote it
        return journal.widths
    plan = read_plan(start)
    weights, vectors = _stored(start, teacher, plan)
    choices = Choices(sites_of(teacher), {}, options.calibration(options.data, options.out))
    passages = map(Passages(teacher).of, _calibrating(options, recordings.training))
    with files.workspace(Path(options.out)) as folder:
        mixed = candidates(teacher, plan, weights, choices, passages, folder)
    stages = _stages(options, Student(teacher, plan.quantized(), mixed, vectors), journal)
    limit = _weight_bytes(options, start, plan, teacher)
    search, records = stages.search_widths(recordings.training, limit)
    found, learned = search.result(plan, choices)
    checkpoint.write(
        stages.student.trained(), found, learned, journal.widths, histograms.read(start), records=_record_file(records)
    )
    return journal.widths


def _weight_bytes(options: TuneOptions, start: Path, plan: Plan, teacher: Recognizer) -> float:
    """The bytes on disk that the weights of all sites may take; those of the start at least."""
    quantized = plan.quantized().values()
    taken = sum(choice.weight.bytes for choice in quantized)
    if options.avg_bits is not None:
        return max(taken, options.avg_bits / 8 * sum(choice.weight.count for choice in quantized))
    rest = folder_bytes(start) - taken
    return max(taken, teacher.float32_bytes / (RESERVED * (options.target_compression or 1)) - rest)


def _stored(start: Path, teacher: Recognizer, plan: Plan) -> tuple[dict[str, QTensor], dict[str, Tensor]]:
    """The weights, biases and norms of a start; InputError if it is damaged, or was made from another model."""
    if wrong := problems(start):
        raise InputError(f"{wrong[0]}; --from needs a model that `sfm-quant verify` passes")
    choices = plan.quantized()
    weights = stored_weights(start, teacher.model, choices)
    for name, choice in choices.items():
        stated = choice.measured.weight_sqnr_db
        found = with_error(choice, canonical_weight(teacher.model.get_submodule(name)), weights[name])
        if stated is not None and abs((found.measured.weight_sqnr_db or 0) - stated) > SAME:
            raise InputError(
                f"{start}: {name} was rounded from other weights than those of {teacher.path}; pass a folder that was "
                "made from this model"
            )
    return weights, stored_vectors(start, teacher.model)


def _stages(options: TuneOptions, student: Student, journal: Journal) -> Stages:
    return Stages(
        *(student, _settings(options), journal, Path(options.out), options.seed, options.loss, options.minutes),
        widths_learned=options.learns_widths(),
    )


def _record_file(records: list[JsonObject]) -> dict[Path, str]:
    return {RECORD: "".join(json.dumps(each, allow_nan=False) + "\n" for each in records)}


def _records(folder: Path) -> list[JsonObject]:
    """What a folder keeps of its training."""
    path = folder / RECORD
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _settings(options: TuneOptions) -> TuneSettings:
    """The usual settings with the lengths that were asked for."""
    asked = {
        name: value
        for name in ("steps", "layer_steps", "width_steps")
        if (value := getattr(options, name)) is not None
    }
    return replace(TuneSettings(), **asked)


def _journal_folder(out: str) -> Path:
    path = Path(out)
    return path.with_name(path.name + ".training")


def _fingerprint(options: TuneOptions, teacher: Recognizer, recordings: Recordings) -> JsonObject:
    ignored = ("resume", "out", "skip_bad", "dev", "data", "model", "start")
    parts = {"training": recordings.training, "development": recordings.development}
    texts = {name: [each.text for each in part] for name, part in parts.items() if options.loss != "distill"}
    return {
        **{name: value for name, value in asdict(options).items() if name not in ignored},
        **{name: [(each.key, each.sha256) for each in part] for name, part in parts.items()},
        **writing(teacher),
        "texts": texts,
        "weights": checkpoint.weights_hash(teacher.model),
        "start": None if options.start is None else checksums(Path(options.start)),
    }


def _described(
    plan: Plan, student: Student, recordings: Recordings, done: Done, options: TuneOptions, inputs: str
) -> Plan:
    """The plan that training started from, with what was learned and how."""
    choices, weights = student.quantized()
    assert done.progress is not None
    checks = [each for each in done.records if each["stage"] == "end to end"]
    about = {
        "loss": options.loss,
        "recordings": len(recordings.training),
        "development": len(recordings.development),
        "steps": done.progress.step,
        "layers": len(done.layers),
        "score_before": checks[0]["score"],
        **({} if options.dev is None else {"dev": options.dev}),
    }
    heard = hashes([*recordings.training, *recordings.development]) | set(plan.calibration.get("audio_sha256", ()))
    calibration = {"audio_sha256": sorted(heard), "inputs_sha256": inputs, "training": about}
    return replace(
        plan,
        sites={**plan.sites, **{name: _trained(student, name, choices[name], weights[name]) for name in choices}},
        score={**plan.score, "whole_model": round(done.progress.score, 6)},
        calibration={**plan.calibration, **recordings.about, **calibration},
    )


def _trained(student: Student, name: str, choice: Quantized, weight: QTensor) -> Quantized:
    """The choice for a site, without what was measured before its range or its weight changed."""
    if choice.input != student.sites[name].choice.input:
        choice = replace(choice, measured=Measured(probe_score=choice.measured.probe_score))
    float_weight = canonical_weight(student.teacher.model.get_submodule(name))
    return with_error(replace(choice, weight=replace(choice.weight, rounding=TRAINED)), float_weight, weight)


def _summary(
    options: TuneOptions, plan: Plan, teacher: Recognizer, records: list[JsonObject], seconds: float
) -> JsonObject:
    return {
        "schema": 1,
        "plan": str(Path(options.out) / checkpoint.PLAN_FILE),
        "scheme": plan.scheme,
        "loss": options.loss,
        "sites": [{"name": name, **said(to_entry(choice))} for name, choice in plan.sites.items()],
        "average_bits": round(plan.average_bits(), 4),
        "score": plan.score,
        "training": plan.calibration["training"],
        "records": records,
        "seconds": round(seconds, 2),
        "bytes_before": teacher.bytes_on_disk,
        "bytes_float32": teacher.float32_bytes,
        "bytes_after": folder_bytes(Path(options.out)),
    }
