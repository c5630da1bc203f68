"""The method on one page: a float model and recordings in, an integer model with its plan out.

    model -> sites -> statistics (one pass) -> planner -> Plan -> rounding -> integer weights -> folder

The planner decides (planners/stable.py is the paper's), with what `Calibration` offers it: ranges from the histograms,
scores of trials on the probe recordings, and an account of what those cost in float passes.
"""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..foundation import progress, registry, signals
from ..foundation.errors import InputError
from ..models import checkpoint
from ..models import recognizers as models
from ..models.checkpoint.verify import problems
from ..models.families import discovery as sites
from ..models.recognizers import Recognizer
from ..models.source import folder_bytes
from ..quantization.plan.entry import said, to_entry
from ..quantization.plan.plan import Plan, parse_scheme, read_plan
from ..quantization.planners import edited as given
from ..quantization.search.choices import LIMITS
from ..quantization.search.resume import ResumeState, fingerprint_hash
from ..quantization.search.scores import SCORES, Recording
from ..quantization.search.session import Planner, begin
from ..speech import audio

MAX_RECORDINGS = 128  # that the statistics read, unless --max-samples says otherwise
MAX_SECONDS = 30.0  # of one recording: attention needs memory in the square of its length


@dataclass(frozen=True)
class Options:
    """What `sfm-quant calibrate` takes; the command line is made from these fields."""

    model: str
    data: str
    out: str
    scheme: str = "w8a8"
    method: str = "stable"
    score: str = "logits"
    threshold: float = 0.25  # gamma: points a layer may lose before it is selected
    max_samples: int | None = None
    seed: int = 0
    resume: bool = False
    group_size: int | Literal["auto"] | None = "auto"  # that share a step, at 4 bits and fewer; None: a whole row
    rounding: str | None = None  # None: compensated at 4 bits and fewer, nearest above
    avg_bits: float | None = None  # of a weight on disk, scales counted: bits are allocated (planners/mixed.py)
    target_compression: float | None = None  # bytes of the float model over those of the quantized one: likewise
    max_wer_increase: float | None = None  # points, on recordings that calibrate nothing: the smallest model in it
    skip_bad: bool = False  # leave out what cannot be used, and count it
    target_lang: str | None = None  # of a model with adapters of languages
    plan: str | None = None  # a plan to apply instead of a search; its scheme and method then replace those above


def calibrate(options: Options) -> dict[str, Any]:
    """Quantize a model and write it to `options.out`; returns the calibrate JSON."""
    options, planner = _planned(options)
    if Path(options.out).is_symlink():  # write where it leads, which may be another disk
        options = replace(options, out=os.path.realpath(options.out))
    checkpoint.check_destination(options.out)
    with checkpoint.claimed(Path(options.out)):
        return _calibrate(options, planner)


def _calibrate(options: Options, planner: Planner) -> dict[str, Any]:
    began = time.monotonic()
    recognizer = _float_model(options)
    planner.check(sites.discover(recognizer.model))  # before the recordings are read, not after
    recordings, about = read_recordings(options, recognizer)
    fingerprint = _fingerprint(options, recognizer, recordings, about)
    about["inputs_sha256"] = fingerprint_hash(fingerprint)
    if options.resume and (plan := _finished(options, fingerprint)):
        return _summary(options, plan, recognizer, plan.calibration["float_passes"], time.monotonic() - began)
    checkpoint.tell_replaced(options.out)
    journal = ResumeState(_journal_folder(options.out), fingerprint, options.resume)

    recordings, held_out = _held_out(recordings, options)
    session = begin(recognizer, recordings, journal, options, about, held_out)
    plan, weights = session.roundings.round(planner.plan(session))
    plan = session.scored(plan, weights)
    for sentence in planner.remarks(plan):
        warnings.warn(sentence, stacklevel=1)

    checkpoint.write(recognizer, plan, weights, Path(options.out), session.histograms, signals.settle)
    journal.remove()
    return _summary(options, plan, recognizer, session.passes.spent, time.monotonic() - began)


def read_recordings(options: Options, recognizer: Recognizer) -> tuple[list[Recording], dict[str, Any]]:
    """The calibration recordings and what the plan says of them; each is read once here, so bad ones stop it early."""
    found = _listing(options)
    utterances = found.utterances
    recordings, hashes, seconds, short, silent = [], [], 0.0, 0, 0
    utterances.sort(key=lambda each: each.id)  # the order of the list decides nothing
    for utterance in progress.bar(utterances, desc="reading recordings", unit="file"):
        waveform = _read(utterance, recognizer.sampling_rate, options)
        if len(waveform) < recognizer.min_samples:
            short += 1
            continue
        silent += bool(waveform.min() == waveform.max())  # also a constant: normalised, nothing is left of it
        hashes.append(audio.content_hash(waveform))
        seconds += len(waveform) / recognizer.sampling_rate
        read = lambda u=utterance: _read(u, recognizer.sampling_rate, options)  # noqa: E731
        recordings.append(Recording(utterance.id, read, utterance.text))
    if len(recordings) == silent:
        raise InputError(
            f"{options.data}: nothing to calibrate on: of {len(utterances)} recordings {short} are shorter than "
            f"{1000 * recognizer.min_samples / recognizer.sampling_rate:.0f} ms and {silent} are silent"
        )
    about = {
        "data": options.data,
        "recordings": len(recordings),
        "seconds": round(seconds, 3),
        "skipped_too_short": short,
        "silent": silent,
        "skipped_bad": found.skipped,
        "seed": options.seed,
        "audio_sha256": sorted(hashes),
        **({} if recognizer.target_lang is None else {"target_lang": recognizer.target_lang}),
    }
    return recordings, about


def _listing(options: Options) -> audio.Listing:
    """What can be used of the data; what is left out is told at once."""
    found = audio.listing(
        options.data,
        require_text=_needs_text(options),
        max_samples=options.max_samples or MAX_RECORDINGS,
        seed=options.seed,
        skip_bad=options.skip_bad,
    )
    found = audio.decodable(found, skip_bad=options.skip_bad)
    for sentence in audio.told(found.problems):
        warnings.warn(f"left out: {sentence}", stacklevel=1)
    return found


def _read(utterance: audio.Utterance, sampling_rate: int, options: Options) -> np.ndarray:
    waveform = audio.load(utterance, sampling_rate)
    # A transcript covers the whole recording, so only the score that needs none may cut it.
    return waveform if _needs_text(options) else waveform[: int(MAX_SECONDS * sampling_rate)]


def _planned(options: Options) -> tuple[Options, Planner]:
    """The planner; with a given plan, also the options that it was made with."""
    if options.plan is None:
        return options, _planner(options)
    edited = given.read(options.plan)
    threshold = edited.wanted.score.get("threshold", options.threshold)
    made_with = replace(options, scheme=edited.scheme, method=edited.wanted.method, threshold=threshold)
    return made_with, Planner(edited.plan, edited.check, edited.remarks)


def _planner(options: Options) -> Planner:
    if not math.isfinite(options.threshold):
        raise InputError(f"a threshold of {options.threshold} is no number of points; give one such as 0.25")
    if options.score not in SCORES:
        raise InputError(f"no score {options.score!r}; there are {', '.join(SCORES)}")
    weight_bits, _ = parse_scheme(options.scheme)
    limits = [name for name in LIMITS if getattr(options, name) is not None]
    if len(limits) > 1:
        raise InputError(f"give one of {', '.join(_flag(name) for name in limits)}, not several")
    if limits and weight_bits != 8:
        raise InputError(f"{_flag(limits[0])} decides the bits of the weights itself; leave them out of --scheme (w8)")
    if limits and options.method in ("stable", *registry.names("ranges")):
        return Planner(registry.get("planners", "mixed").plan)
    if options.method == "stable":
        return Planner(registry.get("planners", "stable").plan)
    registry.get("ranges", options.method)
    return Planner(registry.get("planners", "uniform").plan)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _float_model(options: Options) -> Recognizer:
    recognizer = models.load(options.model, options.target_lang)
    if recognizer.scheme != "float32":
        raise InputError(
            f"{options.model}: already quantized ({recognizer.scheme}); calibrate the float model it was made from"
        )
    for remark in recognizer.remarks:
        warnings.warn(remark, stacklevel=1)
    return recognizer


def _needs_text(options: Options) -> bool:
    return options.score == "wer" or options.max_wer_increase is not None


def _held_out(recordings: list[Recording], options: Options) -> tuple[list[Recording], list[Recording]]:
    """The recordings that calibrate, and those that are held out: every other one where a bound asks for them."""
    if options.max_wer_increase is None:
        return recordings, []
    if len(recordings) < 2:
        raise InputError(f"{options.data}: --max-wer-increase needs recordings of its own; give at least 2")
    return recordings[::2], recordings[1::2]


def _journal_folder(out: str) -> Path:
    path = Path(out)
    return path.with_name(path.name + ".calibration")


def _finished(options: Options, fingerprint: dict[str, Any]) -> Plan | None:
    """The plan of the model at `out` when it is whole and of these inputs: then nothing is to do."""
    try:
        plan = read_plan(Path(options.out))
        if plan.calibration.get("inputs_sha256") != fingerprint_hash(fingerprint) or problems(Path(options.out)):
            return None
    except InputError:  # no model, or a damaged one
        return None
    if (folder := _journal_folder(options.out)).exists():
        ResumeState(folder, fingerprint, resume=True).remove()
    print(f"{options.out}: complete already; leave out --resume to calibrate again", file=sys.stderr)
    return plan


def _fingerprint(
    options: Options, recognizer: Recognizer, recordings: Sequence[Recording], about: dict[str, Any]
) -> dict[str, Any]:
    keep = ("scheme", "method", "score", "threshold", "seed", "group_size", "rounding", *LIMITS)
    return {
        **{key: getattr(options, key) for key in keep},
        **({} if options.plan is None else {"plan": given.read(options.plan).wanted.to_json()}),
        "weights": checkpoint.weights_hash(recognizer.model),
        "audio": about["audio_sha256"],
        "recordings": [(each.key, each.text) for each in recordings],  # in their order: the journal counts them
    }


def _summary(options: Options, plan: Plan, recognizer: Recognizer, passes: float, seconds: float) -> dict[str, Any]:
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
