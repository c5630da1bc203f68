"""The state of a training on disk, next to its output, so that `--resume` can continue from it.

    fingerprint.json      of the model, the recordings and the options
    start/                the quantized model that training starts from
    widths/               the same with the bits of each weight that were learned, if they were
    training.safetensors  all that training changes, the optimizer's moments, and how far it is

The last file is replaced as a whole after each layer and each check: a run that is killed loses what came after.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...foundation import files
from ...foundation.errors import InputError
from .end_to_end import EndToEnd, Progress
from .student import Student

STATE = "training.safetensors"
FINGERPRINT = "fingerprint.json"
START, WIDTHS = "start", "widths"
OURS = frozenset({STATE, FINGERPRINT, START, WIDTHS, f"{START}.calibration", f".{START}.stablequant.lock"})
HALF = tuple(files.workspace_prefix(Path(name)) for name in (START, WIDTHS))  # folders that a killed run was writing
AGAIN = "leave out --resume to start again"


@dataclass
class Done:
    """How far a training is."""

    layers: list[str] = field(default_factory=list)  # that are trained alone
    records: list[dict[str, Any]] = field(default_factory=list)  # of every layer and check
    progress: Progress | None = None  # end to end
    seconds: float = 0.0
    alone: float | None = None  # seconds until all layers were trained


class Journal:
    """The folder of a training."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        _check_ours(folder)
        content, path = json.dumps(fingerprint, sort_keys=True, indent=1), folder / FINGERPRINT
        if resume and path.is_file() and path.read_text() != content:
            raise InputError(
                f"{folder}: this training was started with another model, other recordings or other options; use the "
                "same ones, or leave out --resume to start again"
            )
        if resume and not path.is_file():
            print(f"{folder}: nothing to resume; starting from the beginning", file=sys.stderr)
        elif not resume and path.is_file():
            print(f"{folder}: discarding an unfinished training; use --resume to continue one", file=sys.stderr)
        if not (resume and path.is_file()):  # without a fingerprint it is not known whose state this is
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        files.write(path, content)

    @property
    def start(self) -> Path:
        """Where the model is that training starts from."""
        return self.folder / START

    @property
    def widths(self) -> Path:
        """Where the model is with the widths that were learned."""
        return self.folder / WIDTHS

    @property
    def calibration(self) -> Path:
        """Where the partial results of its calibration are."""
        return self.folder / f"{START}.calibration"

    def save(self, done: Done, student: Student, training: EndToEnd | None = None) -> None:
        """Replace the state."""
        tensors = {f"now {name}": tensor.detach() for name, tensor in student.state()}
        if training is not None:
            tensors |= {f"best {name}": tensor for name, tensor in training.best.items()}
            tensors |= dict(_moments(training.optimizer))
        about = json.dumps(asdict(done))
        try:
            with files.replaced(self.folder / STATE) as partial:
                save_file({name: each.contiguous() for name, each in tensors.items()}, partial, {"done": about})
        except SafetensorError as error:
            raise InputError(
                f"{self.folder}: the state could not be saved ({error}); free some space and run the same command "
                "with --resume"
            ) from error

    def load(self) -> tuple[Done, dict[str, Tensor]]:
        """How far an earlier run came, and the tensors it left; nothing of either in a new folder."""
        path = self.folder / STATE
        if not path.is_file():
            return Done(), {}
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["done"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            progress = None if about["progress"] is None else Progress(**about.pop("progress"))
            return Done(**{**about, "progress": progress}), tensors
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); {AGAIN}") from error

    def remove(self) -> None:
        """Remove it after the model was written; failing that is only a warning, because the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            warnings.warn(f"{self.folder}: no longer needed, but cannot be removed; delete it", stacklevel=1)


def restore(training: EndToEnd, tensors: Mapping[str, Tensor]) -> None:
    """Put an end-to-end training back to where its state was saved; student and progress are there already."""
    training.best = {name: tensors[f"best {name}"] for name in training.best}
    for key, parameter in _keys(training.optimizer):
        state = {name.partition(" of ")[0]: each for name, each in tensors.items() if name.endswith(f" of {key}")}
        if state:
            training.optimizer.state[parameter] = state


def of_kind(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of a state: `now` or `best`."""
    return {name.removeprefix(kind + " "): each for name, each in tensors.items() if name.startswith(kind + " ")}


def _keys(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [(f"parameter {n}", parameter) for n, parameter in enumerate(every)]


def _moments(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    return [
        (f"{name} of {key}", each)
        for key, parameter in _keys(optimizer)
        for name, each in optimizer.state.get(parameter, {}).items()
    ]


def _check_ours(folder: Path) -> None:
    """InputError unless the folder is new or of an earlier run: it is emptied and removed later."""
    names = {files.final_name(path.name) for path in folder.iterdir()} if folder.is_dir() else set()
    ours = all(name in OURS or name.startswith(HALF) for name in names)
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and ours)):
        raise InputError(f"{folder}: needed for partial results, but it contains something else; move that away")
