"""Load a speech recogniser, float or quantized, with everything about it that later steps need to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from ...engines import onednn
from ...engines.quantized_site import QuantizedSite, TableOf
from ...foundation.errors import InputError, first_line
from ...foundation.strict_json import JsonObject
from ...quantization.plan.plan import PLAN_FILE, read_plan
from .. import folder_check, source
from ..families.base import Family, Geometry, families
from ..missing_weights import zero_unread
from ..processors import Languages, load_processor
from ..recognizer import Recognizer
from ..source import Source
from ..tasks.base import PLAIN, Decoding, Inputs, Task, task_of
from . import transformers_hook  # noqa: F401  (registers the format with transformers)

AGAIN = "; copy the model again"
GENERATION = "generation_config.json"
PROBE = 8000  # samples: enough for a frame of every family, its adapter included


def load(path: str, target_lang: str | None = None, decoding: Decoding = PLAIN) -> Recognizer:
    """The recogniser in a folder or hub id, float or written by `sfm-quant calibrate`.

    `target_lang` chooses the language of a model with language adapters. Raises InputError if it is not a model of a
    supported family and task, if weights that inference reads are missing, cut short or of another shape, or if
    tokenizer and head cannot belong together. Weights that a float model does not use are ignored, as in
    transformers (checkpoints on the hub often contain pre-training heads); a quantized model must match its file
    key by key.
    """
    known = families()
    files = source.locate(path, tuple(known), target_lang)
    folder_check.check(files)
    size = files.bytes_on_disk()  # before transformers may add to the folder
    config, task = _config(files, known)
    _refuse(files, config, task, decoding)  # before the weights are read: what the user typed is known to be wrong
    family, geometry = _built(path, config, known)
    scheme = _scheme(path, config)
    plan = _calibration(files) if scheme != "float32" else {}
    processor, languages = load_processor(files, family, task, target_lang)
    language = languages.chosen or plan.get("target_lang")
    _check_language(files, config, language, target_lang)
    rate = processor.feature_extractor.sampling_rate
    probe = family.inputs(processor.feature_extractor, np.zeros(PROBE, np.float32), rate)
    _check_shape(path, probe, geometry)
    model = _model(files, config, task, probe, target_lang if languages.chosen else None)
    parameters = sum(each.numel() for each in model.parameters())
    if scheme == "float32":  # a quantized one was prepared before its weights were read
        family.prepare(model)
    recognizer = Recognizer(
        model=model.eval(),
        processor=processor,
        path=path,
        scheme=scheme,
        sampling_rate=rate,
        sites=_count_sites(model, family),
        geometry=geometry,
        notices=() if scheme == "float32" else onednn.notices(model.hf_quantizer.reasons, path),
        bytes_on_disk=size,
        float32_bytes=4 * parameters,
        folder=str(files.folder),
        revision=files.revision,
        target_lang=language,
        calibrated_on=frozenset(plan.get("audio_sha256", ())),
        family=family,
        task=task,
        decoding=decoding,
        batched=partial(onednn.batched_logits, model) if onednn.can_batch(model) else None,
        decoder=onednn.decoder_of(model),
    )
    unfit = task.check(path, recognizer.network)
    return replace(recognizer, remarks=(*folder_check.remarks(files), *unfit, *_languages(path, languages)))


def _config(files: Source, known: Mapping[str, Family]) -> tuple[Any, Task]:
    """The configuration, and the task of the classes in it."""
    path = files.name
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    except Exception as error:  # transformers checks little of a file; whatever it trips over is wrong in there
        raise InputError(f"{path}: not a readable model ({first_line(error)})") from error
    named = [str(name) for name in config.architectures] if isinstance(config.architectures, list) else []
    task = task_of(named, known[config.model_type].TASK)
    if task is None:
        raise InputError(f"{path}: {named[0]} does not transcribe; use a model that was fine-tuned for it")
    config.return_dict = True  # training settings that some folders carry, and that change what a call returns
    config.output_attentions = config.output_hidden_states = False
    config._attn_implementation = None  # the default of this machine, not the kernel that the folder was trained with
    return config, task


def _refuse(files: Source, config: Any, task: Task, decoding: Decoding) -> None:
    """InputError for choices of decoding that the model does not have."""
    generation = source.read_json(files.folder / GENERATION) if GENERATION in files.names else {}
    try:
        task.refuse(decoding, config, generation)
    except InputError as error:
        raise InputError(f"{files.name}: {error}") from error


def _built(path: str, config: Any, known: Mapping[str, Family]) -> tuple[Family, Geometry]:
    """The family of a model, and how samples become its steps."""
    family = known[config.model_type]
    try:
        return family, family.geometry(config)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {first_line(error)}") from error


def _check_shape(path: str, probe: Inputs, geometry: Geometry) -> None:
    """InputError if the feature extractor gives inputs of another shape than the network takes."""
    found = [tuple(each.shape) for each in probe.values()]
    if geometry.shape is not None and found != [geometry.shape]:
        raise InputError(
            f"{path}: the feature extractor gives inputs of shape {found[0]}, but the model takes {geometry.shape}; "
            "copy preprocessor_config.json from the model that it was fine-tuned from"
        )


def _scheme(path: str, config: Any) -> str:
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return "float32"
    settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
    if settings.get("quant_method") != "stablequant":
        raise InputError(f"{path}: quantized by {settings.get('quant_method')!r}, which stablequant cannot read")
    if "scheme" not in settings:
        raise InputError(f"{path}: quantization_config in config.json has no scheme; write the model again")
    return str(settings["scheme"])


def _calibration(files: Source) -> JsonObject:
    """What the plan of a quantized model says about its calibration; empty if the plan cannot be read."""
    try:
        return dict(read_plan(files.folder / PLAN_FILE).calibration)
    except InputError:
        return {}


def _check_language(files: Source, config: Any, language: str | None, target_lang: str | None) -> None:
    """InputError if this model cannot be switched to the requested language."""
    if target_lang is None or (language == target_lang and getattr(config, "quantization_config", None)):
        return
    if language != target_lang:
        only = f"is only for the language {language}" if language else "has no language adapters"
        raise InputError(f"{files.name}: {only}; leave out --target-lang, or use the model with all languages")
    if target_lang not in files.languages():
        others = ", ".join(files.languages()) or "none"
        raise InputError(f"{files.name}: no adapter.{target_lang}.safetensors here; available languages: {others}")


def _model(files: Source, config: Any, task: Task, probe: Inputs, target_lang: str | None) -> Any:
    path = files.name
    try:
        model, info = getattr(transformers, task.AUTO_CLASS).from_pretrained(
            files.folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            trust_remote_code=False,
        )
        if target_lang is not None:
            model.load_adapter(target_lang, local_files_only=True)
    except Exception as error:  # as above
        raise InputError(f"{path}: {_why_not_loaded(error)}") from error
    if mismatched := sorted(info["mismatched_keys"]):
        name, in_file, by_config = mismatched[0]
        raise InputError(
            f"{path}: {name} has shape {tuple(in_file)} in the file and {tuple(by_config)} by config.json; "
            "copy the config.json that belongs to the weights"
        )
    _check_complete(path, model.eval(), task, probe, info)
    return model


def _why_not_loaded(error: Exception) -> str:
    if "weights_only" in str(error):  # torch advises to allow code to run, which nobody should follow
        return (
            "pytorch_model.bin contains more than tensors, which is never unpickled here; save the model again with "
            "`save_pretrained`, which writes safetensors"
        )
    return f"the weights cannot be loaded ({first_line(error).removesuffix(AGAIN)}){AGAIN}"


def _check_complete(path: str, model: Any, task: Task, probe: Inputs, info: Mapping[str, Any]) -> None:
    needed = zero_unread(model, info["missing_keys"], lambda: task.logits(model, probe, None))
    prefixes = {name.partition(".")[0] for name in info["unexpected_keys"]}
    if needed and len(prefixes) == 1 and (prefix := prefixes.pop()) not in dict(model.named_children()):
        raise InputError(
            f"{path}: the names of all weights begin with {prefix!r}, because a wrapper of the model was saved; "
            "remove this prefix, or save the model inside the wrapper"
        )
    if needed:
        what = "the head (lm_head)" if task.missing_head(needed[0]) else f"{len(needed)} weights ({needed[0]}, ...)"
        raise InputError(f"{path}: {what} missing from the file, so the model is not complete")


def _languages(path: str, languages: Languages) -> Iterator[str]:
    if languages.chosen is not None:
        others = f"; --target-lang selects another of its {len(languages.others) + 1}" if languages.others else ""
        yield f"{path}: recognises the language {languages.chosen}{others}"


def _count_sites(model: nn.Module, family: Family) -> dict[str, int]:
    """How many sites run how; together they are those of the plan, where a table of tokens is one of its own."""
    quantized = sum(isinstance(module, QuantizedSite) for module in model.modules())
    fast = sum(isinstance(module, onednn.IntegerModule) for module in model.modules())
    integer = 0 if onednn.kernels.way() == "float" else fast
    tables = sum(isinstance(module, TableOf) for module in model.modules())
    return {"integer": integer, "simulated": quantized - integer, "float": len(family.sites(model)) + tables}
