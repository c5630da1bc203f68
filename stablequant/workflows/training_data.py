"""The recordings of a training: those that are learned from, and those that choose the best state."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from ..foundation.errors import InputError
from ..foundation.options import TuneOptions
from ..foundation.strict_json import JsonObject
from ..models.recognizer import Recognizer
from ..quantization.search.forward_pass import CalibrationUtterance
from .calibration_data import about_part, hashes, read_recordings

MOST_DEVELOPMENT = 32  # recordings that choose the best state, where DEV is not given
EVERY = 10  # of DATA are held out for that
LEARNABLE = 0.5  # of the transcripts, at least


@dataclass(frozen=True)
class Recordings:
    """What is trained on, what chooses the best state, and what the plan says of both."""

    training: list[CalibrationUtterance]
    development: list[CalibrationUtterance]
    about: JsonObject  # of those that are trained on


def read_training_data(options: TuneOptions, teacher: Recognizer) -> Recordings:
    """DATA and DEV, without what is in both; every tenth of DATA where there is no DEV."""
    learned = options.loss != "distill"
    found, about = read_recordings(options.calibration(options.data, options.out), teacher, None, learned=learned)
    found = _learnable(options.data, found, teacher) if learned else found
    if options.dev is None:
        if len(found) < 2:
            raise InputError(f"{options.data}: training holds out recordings to choose the best state; pass 2 or more")
        every = max(EVERY, -(-len(found) // MOST_DEVELOPMENT)) if len(found) >= EVERY else 2
        development = found[every - 1 :: every]
        found = [each for each in found if each.sha256 not in hashes(development)]  # copies go with them
        if not found:
            raise InputError(f"{options.data}: all recordings are copies of one; add others to train on")
    else:
        of_dev = replace(options.calibration(options.dev, options.out), max_samples=None)
        development, _ = read_recordings(of_dev, teacher, None, learned=learned)
        development = _learnable(options.dev, development, teacher) if learned else development
        if shared := hashes(found) & hashes(development):
            raise InputError(
                f"{options.dev}: {len(shared)} of its recordings are in {options.data} too, so it cannot say what is "
                "learned; remove them from one of the two"
            )
    return Recordings(found, development, about_part(about, found, teacher.sampling_rate))


def _learnable(data: str, recordings: list[CalibrationUtterance], teacher: Recognizer) -> list[CalibrationUtterance]:
    """Without recordings whose transcripts the model cannot learn; InputError if they are most of them."""
    task, network, rate = teacher.task, teacher.network, teacher.sampling_rate
    spelled = [not task.unwritable((each.text or "").split(), network.tokenizer) for each in recordings]
    fitting = [task.learnable(network, each.samples / rate, each.text or "") for each in recordings]
    kept = [each for each, *good in zip(recordings, spelled, fitting, strict=True) if all(good)]
    if sum(spelled) < LEARNABLE * len(recordings):
        words = {word for each in recordings for word in (each.text or "").split()}
        some = ", ".join(sorted(task.unwritable(words, network.tokenizer))[:3])
        raise InputError(
            f"{data}: {len(recordings) - sum(spelled)} of {len(recordings)} transcripts have words ({some}) that the "
            "symbols of the model cannot spell; write them as the model does, for example in its letter case"
        )
    if not kept:
        raise InputError(f"{data}: no transcript can be learned: each is empty, or too long for its recording")
    if len(kept) < len(recordings):
        warnings.warn(
            f"{data}: {len(recordings) - len(kept)} of {len(recordings)} recordings are left out, because the model "
            "cannot learn their transcripts: they are empty, have symbols that it does not have, or too many",
            stacklevel=1,
        )
    return kept
