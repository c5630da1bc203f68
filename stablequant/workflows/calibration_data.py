"""The recordings of a calibration: each is decoded once before any work, and the plan describes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import partial

from ..foundation.errors import InputError
from ..foundation.options import CalibrateOptions
from ..foundation.strict_json import JsonObject
from ..models.recognizer import Recognizer
from ..quantization.search.forward_pass import CalibrationUtterance
from ..speech import audio
from ..speech.audio import Facts

MAX_RECORDINGS = 128  # that the statistics read, unless --max-samples says otherwise
MAX_SECONDS = 30.0  # of one recording: attention needs memory in the square of its length


def read_recordings(
    options: CalibrateOptions,
    recognizer: Recognizer,
    recordings: int | None = MAX_RECORDINGS,
    *,
    learned: bool = False,
) -> tuple[list[CalibrationUtterance], JsonObject]:
    """The calibration recordings in the order of their names, and their description for the plan.

    There are `recordings` at most, unless the options say otherwise. If transcripts are `learned`, each needs one, and
    is no longer than other recordings are cut to: training needs memory too.
    """
    rate, text = recognizer.sampling_rate, learned or options.needs_text()
    most = None if text else int(MAX_SECONDS * rate)  # a transcript covers all of a recording
    found, facts = _decoded(options, rate, most, options.max_samples or recordings, text)
    pairs = sorted(zip(found.utterances, facts, strict=True), key=lambda pair: pair[0].id)
    usable = [(utterance, each) for utterance, each in pairs if each.samples >= recognizer.min_samples]
    longest = recognizer.geometry.window or (int(MAX_SECONDS * rate) if learned else None)
    usable = _no_longer(usable, options, rate, longest if text else None)
    about = {
        "data": options.data,
        "recordings": len(usable),
        "seconds": 0.0,
        "skipped_too_short": len(pairs) - len(usable),
        "silent": sum(each.constant for _, each in usable),
        "skipped_bad": found.skipped,
        "seed": options.seed,
        "audio_sha256": [],
        **({} if recognizer.target_lang is None else {"target_lang": recognizer.target_lang}),
    }
    if about["silent"] == len(usable):
        raise InputError(
            f"{options.data}: nothing to calibrate on: of {len(pairs)} recordings {about['skipped_too_short']} are "
            f"shorter than {1000 * recognizer.min_samples / rate:.0f} ms and {about['silent']} are silent"
        )
    read = partial(audio.load, sampling_rate=rate, most=most)
    made = [
        CalibrationUtterance(each.id, partial(read, each), each.text, of.samples, of.sha256) for each, of in usable
    ]
    return made, about_part(about, made, rate)


def hashes(recordings: Iterable[CalibrationUtterance]) -> set[str]:
    """By which a copy of a recording is known."""
    return {each.sha256 for each in recordings}


def about_part(about: JsonObject, recordings: Sequence[CalibrationUtterance], rate: int) -> JsonObject:
    """The description of some of the recordings that `about` describes."""
    seconds = round(sum(each.samples for each in recordings) / rate, 3)
    return {
        **about,
        "recordings": len(recordings),
        "seconds": seconds,
        "audio_sha256": sorted(each.sha256 for each in recordings),
    }


def _no_longer(
    pairs: list[tuple[audio.Utterance, Facts]], options: CalibrateOptions, rate: int, longest: int | None
) -> list[tuple[audio.Utterance, Facts]]:
    """Without recordings of more samples, because a transcript is of the whole."""
    seconds = (longest or 0) / rate
    kept = [pair for pair in pairs if longest is None or pair[1].samples <= longest]
    if len(kept) < len(pairs):
        warnings.warn(
            f"{options.data}: {len(pairs) - len(kept)} recordings are longer than {seconds:g} s, and "
            "their transcripts are of the whole; they are left out",
            stacklevel=1,
        )
    if pairs and not kept:
        raise InputError(f"{options.data}: every recording is longer than {seconds:g} s; use shorter ones")
    return kept


def held_out(
    recordings: list[CalibrationUtterance], options: CalibrateOptions
) -> tuple[list[CalibrationUtterance], list[CalibrationUtterance]]:
    """The recordings that calibrate, and those that are held out: every other one if a limit on words needs them."""
    if options.max_wer_increase is None:
        return recordings, []
    if len(recordings) < 2:
        raise InputError(f"{options.data}: --max-wer-increase holds out half of the recordings; pass at least 2")
    return recordings[::2], recordings[1::2]


def _decoded(
    options: CalibrateOptions, rate: int, most: int | None, recordings: int | None, text: bool
) -> tuple[audio.Listing, list[Facts]]:
    """The usable part of the data; what is left out is reported now."""
    found = audio.listing(
        options.data,
        require_text=text,
        max_samples=recordings,
        seed=options.seed,
        skip_bad=options.skip_bad,
    )
    found, facts = audio.decoded(found, rate, skip_bad=options.skip_bad, most=most)
    for sentence in audio.told(found.problems):
        warnings.warn(f"left out: {sentence}", stacklevel=1)
    return found, facts
