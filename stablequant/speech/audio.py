"""Recordings and their transcripts: find them in any known layout, read one as a mono waveform.

A layout is one file in layouts/, which finds utterances and nothing more. Everything after that (whether recordings
and transcripts exist, the subset) is the same for all layouts. waveforms.py decides which waveforms are accepted.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from types import ModuleType

from ..foundation import progress, registry
from ..foundation.errors import InputError
from . import unknown_data
from .layouts._entries import SUFFIXES, Entry, Utterance
from .waveforms import STDIN, Facts, blocks, facts, irregular, length, load

__all__ = [
    "SUFFIXES",
    "Facts",
    "Listing",
    "Utterance",
    "blocks",
    "decoded",
    "facts",
    "listing",
    "load",
    "told",
    "whole_file",
]

TOLD = 20  # sentences in one message
FEW = 3  # problems of one kind that are reported one by one
COMMAND = re.compile("`[^`]*`")
LISTS = frozenset({".json", ".jsonl", ".tsv", ".csv", ".txt"})


@dataclass(frozen=True)
class Listing:
    """The content of a data set: utterances in its order, and a sentence for each entry that cannot be used."""

    layout: str  # the file in layouts/ that read it
    utterances: list[Utterance]
    problems: list[str]  # each once
    skipped: int = 0  # entries that cannot be used; several may have one problem


def listing(
    data: str | Path,
    *,
    require_text: bool,
    max_samples: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Listing:
    """The utterances of `data`, whose layout is detected, in its order; `max_samples` keeps a seeded subset.

    Raises InputError when no layout fits, and with all problems when there are any: a line cannot be read, a
    recording is missing, or, with `require_text`, a transcript is. With `skip_bad`, entries that cannot be used are
    left out and reported in `problems`; it still raises InputError if no utterance can be used.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"max_samples is {max_samples}; it must be 1 or more")
    found = survey(data, require_text=require_text)
    if found.problems and not (skip_bad and found.utterances):
        raise InputError("\n".join(told([*found.problems, *_of_headers(found.utterances)])))
    if not found.utterances:
        raise InputError(f"{data}: lists no utterances; use a manifest with one on each line")
    if max_samples is None:
        return found
    return replace(found, utterances=_subset(found.utterances, max_samples, seed))


def _of_headers(utterances: Iterable[Utterance]) -> Iterator[str]:
    """Problems that the headers show, to be reported together with the others."""
    for utterance in utterances:
        try:
            length(utterance)
        except InputError as error:
            yield str(error)


def decoded(
    found: Listing, sampling_rate: int, *, skip_bad: bool, most: int | None = None
) -> tuple[Listing, list[Facts]]:
    """The recordings that can be decoded, with the facts of each (of its first `most` samples).

    Each recording is read once, before any work, so that a bad one cannot waste it. Raises InputError for all that
    cannot be decoded; with `skip_bad` they become `problems`, unless nothing else is left.
    """
    good, of_each, problems = [], [], []
    for utterance in progress.bar(found.utterances, desc="checking recordings", unit="file"):
        try:
            of_each.append(facts(utterance, sampling_rate, most))
            good.append(utterance)
        except InputError as error:
            problems.append(str(error))
    if problems and not (skip_bad and good):
        raise InputError("\n".join(told(problems)))
    told_once = list(dict.fromkeys([*found.problems, *problems]))
    return replace(found, utterances=good, problems=told_once, skipped=found.skipped + len(problems)), of_each


def survey(data: str | Path, *, require_text: bool) -> Listing:
    """All entries, good and bad; raises InputError only if no layout fits or there is no list to read."""
    layout = detect(Path(data))
    utterances: list[Utterance] = []
    problems: list[str] = []
    for entry in layout.read(Path(data)):
        if (problem := _problem(entry, require_text)) is None:
            utterances.append(entry)
        else:
            problems.append(problem)
    return Listing(layout.__name__.rpartition(".")[2], utterances, list(dict.fromkeys(problems)), len(problems))


def detect(path: Path) -> ModuleType:
    """The layout of some data: of those that fit, the one with the lowest rank."""
    layouts = [registry.get("layouts", name) for name in registry.names("layouts")]
    for rank in sorted({layout.RANK for layout in layouts}):  # the higher ones search whole trees
        fitting = [layout for layout in layouts if rank == layout.RANK and layout.detect(path)]
        if len(fitting) > 1:
            titles = " and ".join(layout.TITLE for layout in fitting)
            raise InputError(
                f"{path}: fits more than one layout: {titles}; pass the list itself instead of its folder"
            )
        if fitting:
            return fitting[0]
    if path.suffix.lower() in SUFFIXES and path.is_file():
        raise InputError(f"{path}: a recording, not a list of recordings; pass its folder instead")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; pass a manifest or a folder of recordings")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{path}: an empty folder; pass a manifest or a folder of recordings")
    titles = ", ".join(layout.TITLE for layout in layouts)
    raise InputError(unknown_data.sentence(path) or f"{path}: not in a known layout; use one of these: {titles}")


def told(problems: list[str]) -> list[str]:
    """One sentence per problem, or one for all problems of a kind if there are many.

    Problems are of one kind if their advice is the same: the text after the last semicolon, except commands in it.
    """
    alike: dict[str, list[str]] = {}
    for problem in dict.fromkeys(problems):
        advice = COMMAND.sub("", problem.rpartition("; ")[2])
        alike.setdefault(advice, []).append(problem)
    sentences = [each for kind in alike.values() for each in (kind if len(kind) <= FEW else [_alike(kind)])]
    others = [f"and {len(sentences) - TOLD} more"] if len(sentences) > TOLD else []
    return [*sentences[:TOLD], *others]


def _alike(problems: list[str]) -> str:
    places = ", ".join(problem.partition(": ")[0] for problem in problems[:FEW])
    return f"{problems[0]} ({len(problems)} similar entries: {places}, ...)"


@contextmanager
def piped(name: str) -> Iterator[Utterance]:
    """A recording from a pipe or from standard input (-).

    It is copied to a temporary file, because decoding needs to seek and it may be hours long.
    """
    source = "standard input" if name == STDIN else name
    with tempfile.NamedTemporaryFile(prefix="sfm-quant-") as file:
        with nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb") as pipe:  # noqa: PTH123
            shutil.copyfileobj(pipe, file)
        file.flush()
        yield Utterance(name, Path(file.name), None, None, offset=0.0, duration=None, source=source)


def whole_file(path: str | Path) -> Utterance:
    """A whole file, of which only the path is known."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; pass recordings, such as {Path(path) / '*.wav'}")
    if not Path(path).exists():
        raise InputError(f"{path}: no such recording; correct the path")
    if Path(path).suffix.lower() in LISTS:
        raise InputError(f"{path}: a list, not a recording; pass the recordings or the folder that contains them")
    return Utterance(str(path), Path(path), None, None, offset=0.0, duration=None, source=str(path))


def _subset(utterances: list[Utterance], count: int, seed: int) -> list[Utterance]:
    """`count` utterances in their order; ranked by a hash, so the choice does not depend on the order of the list."""
    ranked = sorted(utterances, key=lambda each: hashlib.sha256(os.fsencode(f"{seed} {each.id}")).digest())
    chosen = {id(each) for each in ranked[:count]}
    return [each for each in utterances if id(each) in chosen]


def _problem(entry: Entry, require_text: bool) -> str | None:
    """Why an entry cannot be used, if so."""
    if isinstance(entry, InputError):
        return str(entry)
    if entry.content is None and (reason := irregular(entry.path)):
        return f"{entry.source}: {reason}; {_advice(entry)}"
    if require_text and entry.text is None:
        return f"{entry.source}: no transcript, which is needed here; add the text"
    return None


def _advice(entry: Utterance) -> str:
    """Advice for a missing recording."""
    folder = Path(entry.source.rpartition(":")[0] or ".").parent
    path = PureWindowsPath(entry.path.name if "\\" in entry.path.name else entry.path)
    parts = path.parts[bool(path.anchor) :]
    absolute = entry.path.is_absolute() and folder.resolve() not in entry.path.parents
    if "\\" in entry.path.name or absolute:
        ends = (Path(*parts[n:]) for n in range(len(parts)))
        if near := next((end for end in ends if irregular(folder / end) is None), None):
            return f"here it is `{near.as_posix()}`, write that, with / between folders"
    for above in [] if absolute else folder.resolve().parents:
        if irregular(there := above / os.path.relpath(entry.path, folder)) is None:
            return f"from the folder of the list it is `{os.path.relpath(there, folder)}`, write that"
    if "\\" in entry.path.name:
        return "it is a Windows path, use / between folders"
    if absolute and not entry.path.parent.is_dir():
        return "it may be a path on another machine, make it relative to the folder of the list"
    return "correct the path or remove the entry"
