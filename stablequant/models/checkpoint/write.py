"""Write a quantized model: everything into a folder next to the destination, which is then renamed into place."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import nn

from ...engines import quantized_site
from ...foundation import files
from ...foundation.errors import InputError
from ...foundation.memory_pages import drop_mapped
from ...quantization.numerics.weight_grid import QTensor
from ...quantization.observation.histogram import Histogram
from ...quantization.plan.plan import PLAN_FILE, Plan
from ..recognizer import Recognizer
from ..source import read_json
from . import histograms
from .card import model_card
from .transformers_hook import StableQuantConfig, StableQuantizer, untie
from .verify import checksums

Model = TypeVar("Model", bound=nn.Module)


def check_destination(out: str) -> str:
    """Where a model for `out` is to be written: where a link leads, which may be another disk.

    InputError if that would destroy something, or if it cannot be written.
    """
    path = Path(out := os.path.realpath(out) if Path(out).is_symlink() else out)
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{out!r}: a path that is not UTF-8, which safetensors cannot write to; choose another"
        ) from error
    if path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"{out or '.'}: --out must not be the current folder or one above it; choose a subfolder")
    if path.is_dir() and any(path.iterdir()) and not _is_ours(path):
        raise InputError(f"{out}: this folder contains something other than a stablequant model; choose a new one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{out}: a file; choose a folder")
    parent = path.absolute().parent
    existing = next(folder for folder in (parent, *parent.parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=files.workspace_prefix(path), dir=existing):
            pass
    except OSError as error:
        raise InputError(f"{out}: {existing} is not writable ({error.strerror}); choose another folder") from error
    return out


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Inside, no other run can write to `out`, because it would remove what this one has half done.

    Raises InputError if another run holds the lock. It is the kernel's, so a killed run holds none.
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
                f"{out}: another calibration is writing there; wait for it, or choose another folder"
            ) from error
        files.recover(out)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def tell_replaced(out: str) -> None:
    """Print a line on stderr if a quantized model will be replaced."""
    if _is_ours(Path(out)):
        print(f"{out}: contains a stablequant model, which the new one will replace", file=sys.stderr)


def write(
    recognizer: Recognizer,
    plan: Plan,
    weights: Mapping[str, QTensor],
    out: Path,
    stats: Mapping[str, Histogram] | None = None,
    complete: Callable[[], None] = lambda: None,
    records: Mapping[Path, str] = MappingProxyType({}),
) -> None:
    """Write the integer form of a float recogniser to the folder `out`, completely or not at all.

    The float model is not changed. An earlier stablequant model at `out` is replaced. `stats`, the histograms behind
    the plan, and `records`, texts by file, are stored as evidence. `complete` is called when everything is written and
    only the renaming is left.
    """
    for weight in recognizer.model.parameters():
        drop_mapped(weight)  # most are no longer needed, and writing takes memory too
    model = quantized_model(recognizer.model, plan, weights)
    try:
        with files.workspace(out) as folder:
            new = folder / "new"
            _save(model, recognizer, plan, new, out.name, stats, records)
            files.usual_modes(new)
            complete()
            files.swap(new, out)
    except SafetensorError as error:
        raise InputError(
            f"{out}: the weights could not be written ({error}); free some space and run it again"
        ) from error


def _save(
    model: Any,
    recognizer: Recognizer,
    plan: Plan,
    folder: Path,
    name: str,
    stats: Mapping[str, Histogram] | None,
    records: Mapping[Path, str],
) -> None:
    """Every file of a model that will be called `name`; checksums last, in config.json."""
    model.save_pretrained(folder)
    recognizer.processor.save_pretrained(folder)
    (folder / PLAN_FILE).write_text(plan.to_json(), encoding="utf-8", errors="backslashreplace")
    if stats:
        histograms.write(folder, stats)
    for path, text in records.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(
        model_card(plan, recognizer, folder, name), encoding="utf-8", errors="backslashreplace"
    )
    model.config.quantization_config.checksums = checksums(folder)
    model.config.save_pretrained(folder)


def quantized_model(model: Any, plan: Plan, weights: Mapping[str, QTensor]) -> Any:
    """The model as it is stored, before an engine makes it fast; the float model's other weights are shared."""
    converted = shallow_copy(model)
    quantized_site.convert(converted, plan.quantized(), weights)
    untie(converted)
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


def shallow_copy(model: Model) -> Model:
    """A copy with modules of its own that shares every tensor."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _is_ours(path: Path) -> bool:
    try:
        quantization = read_json(path / "config.json").get("quantization_config")
    except InputError:
        return False
    return isinstance(quantization, dict) and quantization.get("quant_method") == "stablequant"
