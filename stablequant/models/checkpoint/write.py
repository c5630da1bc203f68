"""Write a quantized model: everything into a folder beside the destination, which is then renamed into place."""

from __future__ import annotations

import copy
import fcntl
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from ...engines import state
from ...foundation.errors import InputError
from ...foundation.memory_pages import drop_mapped as release
from ...quantization.numerics.weight_grid import QTensor
from ...quantization.observation.histogram import Histogram
from ...quantization.plan.plan import PLAN_FILE, Plan
from ..recognizer import Recognizer
from . import histograms as evidence
from .card import model_card
from .hook import StableQuantConfig, StableQuantizer
from .verify import checksums


def check_destination(out: str) -> None:
    """InputError when `out` is something that writing a model there would destroy, or cannot be written."""
    path = Path(out)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{out!r}: a path that is not UTF-8, which safetensors cannot write to; give another"
        ) from error
    if path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{out or '.'}: a folder is written by renaming it into place; give one below this one")
    if path.is_dir() and any(path.iterdir()) and not _is_ours(path):
        raise InputError(f"{out}: this folder holds something else than a stablequant model; give a new one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{out}: a file is here; give a folder")
    parent = path.absolute().parent
    existing = next(folder for folder in (parent, *parent.parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=_prefix(path), dir=existing):
            pass
    except OSError as error:
        raise InputError(f"{out}: {existing} cannot be written to ({error.strerror}); give another folder") from error


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Inside, no other run writes to `out`: it would clear away what this one has half done.

    Raises InputError when another holds it. The lock is the kernel's, so a killed run holds none.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.stablequant.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
                raise BlockingIOError  # another run removed it between the two calls
        except BlockingIOError as error:
            raise InputError(
                f"{out}: another calibration is writing there; wait for it, or give another folder"
            ) from error
        recover(out)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def tell_replaced(out: str) -> None:
    """A line on stderr where a quantized model will be replaced."""
    if _is_ours(Path(out)):
        print(f"{out}: holds a stablequant model, which the new one will replace", file=sys.stderr)


def write(
    recognizer: Recognizer,
    plan: Plan,
    weights: Mapping[str, QTensor],
    out: Path,
    stats: Mapping[str, Histogram] | None = None,
    complete: Callable[[], None] = lambda: None,
) -> None:
    """Write the integer form of a float recogniser to the folder `out`, whole or not at all.

    The float model is left as it is. An earlier stablequant model at `out` is replaced. `stats`, what the plan was
    decided on, is kept as evidence. `complete` is called when all is written and only the renaming is left.
    """
    for weight in recognizer.model.parameters():
        release(weight)  # most are not needed any more, and what is written takes memory too
    model = quantized_model(recognizer.model, plan, weights)
    try:
        with workspace(out) as folder:
            new = folder / "new"
            _save(model, recognizer, plan, new, out.name, stats)
            _usual_modes(new)
            complete()
            _swap(new, out, folder / "old")
    except SafetensorError as error:
        raise InputError(
            f"{out}: the weights could not be written ({error}); free some space and run it again"
        ) from error


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """Inside, a folder beside `out` for what is not finished; a killed run's goes when `out` is next used."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    finally:
        recover(out)


def recover(out: Path) -> None:
    """Clear away what a killed run left beside `out`: half a model goes, an older one that stepped aside returns."""
    for left in out.parent.glob(glob.escape(_prefix(out)) + "*"):
        old = left / "old"
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(left, ignore_errors=True)


def _prefix(out: Path) -> str:
    """What the name of a workspace of `out` begins with."""
    return f".{out.name}.stablequant-"


def _save(
    model: Any, recognizer: Recognizer, plan: Plan, folder: Path, name: str, stats: Mapping[str, Histogram] | None
) -> None:
    """Every file of a model that will be called `name`; checksums last, in config.json."""
    model.save_pretrained(folder)
    recognizer.processor.save_pretrained(folder)
    (folder / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8", errors="backslashreplace")
    if stats:
        evidence.write(folder, stats)
    (folder / "README.md").write_text(
        model_card(plan, recognizer, folder, name), encoding="utf-8", errors="backslashreplace"
    )
    model.config.quantization_config.checksums = checksums(folder)
    model.config.save_pretrained(folder)


def quantized_model(model: Any, plan: Plan, weights: Mapping[str, QTensor]) -> Any:
    """The model as it is stored, before an engine makes it fast; the float model's other weights are shared."""
    converted = shallow_copy(model)
    state.convert(converted, plan.quantized(), weights)
    config = StableQuantConfig.of(plan)
    converted.config.quantization_config = config
    converted.hf_quantizer = StableQuantizer(config, pre_quantized=True)
    return converted


def weights_hash(model: nn.Module) -> str:
    """sha256 over the names and bytes of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def shallow_copy(model: Any) -> Any:
    """A copy with modules of its own that shares every tensor."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _is_ours(path: Path) -> bool:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return bool(config["quantization_config"]["quant_method"] == "stablequant")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _usual_modes(folder: Path) -> None:
    """The permissions that new files get; temporary folders, and files that safetensors writes, are private."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    folder.chmod(0o777 & ~umask)


def _swap(new: Path, out: Path, old: Path) -> None:
    """Rename `new` to `out`; an older model there steps aside, and comes back if that fails."""
    if out.exists():
        out.rename(old)
    new.rename(out)
