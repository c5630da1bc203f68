"""Check a quantized folder: files against checksums; plan, config.json and weights against each other.

Checksums are sha256 and are stored in quantization_config of config.json, which cannot contain its own: of that file
the settings outside quantization_config are hashed, and those inside are compared with plan.json. Loading computes no
hashes, because that would take longer than loading itself; it checks names, types, shapes and values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...foundation.errors import InputError
from ...foundation.strict_json import JsonObject
from ...quantization.plan.checking import entry_problem
from ...quantization.plan.plan import Plan, of_draft
from ...quantization.plan.plan_file import PLAN_FILE, Draft, read_draft
from ..folder_check import check
from ..source import SETTINGS, in_folder, read_json
from . import histograms, read
from .transformers_hook import StableQuantConfig
from .value_checks import value_problems

CONFIG_FILE = "config.json"
NOT_HASHED = frozenset({CONFIG_FILE, "README.md"})  # people may write into the model card
OPTIONAL = frozenset({histograms.FILE.as_posix()})  # a model is complete without them
NOT_SETTINGS = frozenset({"quantization_config", "transformers_version", "_name_or_path"})


def checksums(folder: Path) -> dict[str, str]:
    """{file: sha256} of a quantized folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {CONFIG_FILE: _settings_hash(_settings(folder))} | {
        name: _file_hash(path) for name, path in names.items() if name not in NOT_HASHED
    }


def problems(folder: Path) -> list[str]:
    """A sentence for everything wrong with a quantized folder; InputError if stablequant did not write it."""
    settings = _settings(folder)
    quantization = settings.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "stablequant":
        raise InputError(f"{folder}: not a model by stablequant; pass a folder that `sfm-quant calibrate` wrote")
    found = list(_altered(folder, settings, quantization.get("checksums")))
    try:
        check(in_folder(str(folder), folder))
        config, draft = StableQuantConfig(**quantization), read_draft(folder / PLAN_FILE)
        if config.to_dict() != quantization:
            found.append(f"{folder / CONFIG_FILE}: quantization_config has fields that stablequant does not write")
        where = str(folder / PLAN_FILE)
        contradictions = [f"{where}: {sentence}" for sentence in _contradictions(draft)]
        found += contradictions or _disagreements(folder, config, of_draft(draft, where))
        if not found:
            read.load(str(folder))
    except InputError as error:
        found.append(str(error))
    return found


def _contradictions(draft: Draft) -> Iterator[str]:
    """Entries of the plan that cannot be what was written."""
    for name, entry in draft.sites.items():
        if entry.reason is None and (problem := entry_problem(entry)):
            yield f"{name}: {problem}"


def _altered(folder: Path, settings: Mapping[str, object], expected: object) -> Iterator[str]:
    """Files that are missing, unexpected or changed."""
    if not isinstance(expected, dict):
        yield f"{folder / CONFIG_FILE}: has no checksums, so no file can be verified"
        return
    if expected.get(CONFIG_FILE) != _settings_hash(settings):
        yield f"{folder / CONFIG_FILE}: changed since it was written (checksum)"
    for name, checksum in sorted(expected.items()):
        path = folder / name
        if name == CONFIG_FILE:
            continue
        if name in OPTIONAL and not path.exists():
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            yield f"{path}: missing, or not a regular file in this folder"
        elif _file_hash(path) != checksum:
            yield f"{path}: changed since it was written (checksum)"
    read = {path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin") or path.name in SETTINGS}
    for path in sorted(read):
        if path.name not in expected and path.name not in NOT_HASHED:
            yield f"{path}: does not belong to the model (it has no checksum)"


def _disagreements(folder: Path, config: StableQuantConfig, plan: Plan) -> Iterator[str]:
    """A sentence for each contradiction between plan.json, config.json and the weights."""
    where, expected = folder / PLAN_FILE, StableQuantConfig.of(plan)
    if config.scheme != expected.scheme:
        yield f"{where}: scheme {expected.scheme}, but {config.scheme} in {CONFIG_FILE}"
    for name in sorted(expected.sites.keys() | config.sites.keys()):
        here, there = expected.sites.get(name, "float"), config.sites.get(name, "float")
        if here != there:
            yield f"{where}: {name} is {here}, but {there} in {CONFIG_FILE}"
    tensors = _tensors(folder, config.sites)
    bits = {name: bits for name, (_, bits) in config.formats.items()}
    yield from (f"{folder}: {problem}" for problem in value_problems(tensors, bits))
    for name, choice in plan.quantized().items():
        keys = (f"{name}.input_scale", f"{name}.input_zero_point")
        stored = [tensors[key].tolist() for key in keys if key in tensors]
        if choice.input is None or stored != [choice.input.scale, choice.input.exact_zero]:
            yield f"{where}: {name}: scale and zero_point differ from those in the weights file"


def _tensors(folder: Path, sites: Mapping[str, object]) -> dict[str, Tensor]:
    """The small tensors of the sites, by name; codes and positions are left out."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = [key for key in tensors.keys() if not key.endswith((".codes", ".positions"))]  # noqa: SIM118
                found |= {key: tensors.get_tensor(key) for key in names}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
    return found


def _settings(folder: Path) -> JsonObject:
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; pass one that `sfm-quant calibrate` wrote")
    if not path.is_file():
        raise InputError(f"{folder}: no {CONFIG_FILE} here; pass a folder that `sfm-quant calibrate` wrote")
    return read_json(path)


def _settings_hash(settings: Mapping[str, object]) -> str:
    kept = {key: value for key, value in settings.items() if key not in NOT_SETTINGS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()
