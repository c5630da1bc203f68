"""Load a speech recogniser, float or quantized, and make its structure ready to quantize.

Two things in the family hide weights from a quantizer, and `prepare` undoes both without changing a result: the
positional convolution computes its weight from a norm and a direction at every call (weight_norm, Salimans & Kingma
2016), and WavLM passes its projections' weights to `F.multi_head_attention_forward` without calling the modules.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForCTC

from ..engines.state import QuantizedSite
from ..foundation.errors import InputError
from ..foundation.reproducible import one_thread
from ..quantization.plan.draft import PLAN_FILE, read_draft
from . import folder_check, source
from .completeness import zero_unread
from .processors import Languages, check_symbols, first_line, load_processor
from .source import Source
from .tasks import ctc

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
PACK_SECONDS = 30.0  # of audio in one call: longer gains little speed and takes more memory
AGAIN = "; copy the model again"
PROBE = 8000  # samples: enough for a frame of every family, its adapter included


@dataclass(frozen=True)
class Recognizer:
    """A CTC model with what turns audio into its input and its output into text."""

    model: Any  # transformers.PreTrainedModel, in eval mode
    processor: Any  # transformers.Wav2Vec2Processor
    path: str
    scheme: str  # "float32", "w8a8", ...
    sampling_rate: int  # Hz
    sites: dict[str, int]  # how many sites run "integer", "simulated", "float"
    min_samples: int  # the shortest waveform that gives one frame
    notices: tuple[str, ...] = ()  # what runs slower or less exactly on this machine than it should
    remarks: tuple[str, ...] = ()  # what its folder holds that is not applied, or says twice
    bytes_on_disk: int = 0  # of the files that loading read
    float32_bytes: int = 0  # of its parameters, were each stored in four bytes
    folder: str = ""  # where its files are, also for a model of the hub
    revision: str | None = None  # the commit, for a model of the hub
    target_lang: str | None = None  # of a model with language adapters
    calibrated_on: frozenset[str] = frozenset()  # hashes of the recordings, for a quantized model

    def input_values(self, waveform: np.ndarray) -> Tensor:
        """The model's input (1, samples) for a mono float32 waveform (samples,) at `sampling_rate`."""
        features = self.processor.feature_extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="pt")
        values: Tensor = features.input_values
        return values

    @torch.inference_mode()
    def logits(self, waveform: np.ndarray) -> Tensor:
        """Logits (frames, vocabulary) of one utterance; never padded, since padding changes group-norm models."""
        output: Tensor = self.model(self.input_values(waveform)).logits[0]
        return output

    def decode(self, logits: Tensor) -> str:
        """Greedy CTC: the best symbol of each frame, repeats merged, blanks dropped."""
        return ctc.text(ctc.best(logits), self.processor.tokenizer)

    def transcribe(self, waveform: np.ndarray) -> str:
        return self.decode(self.logits(waveform))

    @property
    def blank(self) -> int:
        """The number of the blank of CTC, which is the tokenizer's padding."""
        return int(self.processor.tokenizer.pad_token_id)

    @property
    def stride(self) -> int:
        """Samples from one frame to the next, 320 for most of the family."""
        return frame_stride(self.model.config)

    @property
    def packs(self) -> bool:
        """Whether `transcribe_all` answers several utterances in one call, not one after another."""
        from ..engines.onednn import can_batch

        return can_batch(self.model)

    def transcribe_all(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """What is said in each of several utterances, which together should last no more than PACK_SECONDS."""
        return [self.decode(logits) for logits in self.logits_all(waveforms)]

    def logits_all(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Logits (frames, vocabulary) of each of several utterances, as `transcribe_all`."""
        if not self.packs or not waveforms:
            return [self.logits(waveform) for waveform in waveforms]
        from ..engines.onednn import batched_logits

        return batched_logits(self.model, [self.input_values(w)[0] for w in waveforms])


def load(path: str, target_lang: str | None = None) -> Recognizer:
    """The recogniser in a folder or hub id, float or written by `sfm-quant calibrate`.

    `target_lang` chooses the language of a model with language adapters. Raises InputError when it is not a CTC model
    of the family, when weights that inference reads are missing, cut short or of another shape, or when tokenizer and
    head cannot belong together. Weights that a float model has no use for are left alone, as transformers does
    (checkpoints of the hub often carry the pre-training heads); a quantized model must match its file key by key.
    """
    from ..engines import onednn as engine
    from . import checkpoint  # noqa: F401  (registers the format with transformers)

    files = source.locate(path, FAMILIES, target_lang)
    folder_check.check(files)
    size = files.bytes_on_disk()  # before transformers may add to the folder
    config = _config(files)
    scheme = _scheme(path, config)
    plan = _calibration(files) if scheme != "float32" else {}
    processor, languages = load_processor(files, target_lang)
    language = languages.chosen or plan.get("target_lang")
    _check_language(files, config, language, target_lang)
    model = _model(files, config, target_lang if languages.chosen else None)
    unfit = check_symbols(path, processor.tokenizer, model.config.vocab_size)
    remarks = [
        *folder_check.remarks(files),
        *unfit,
        *_blanks(path, model, processor.tokenizer),
        *_languages(path, languages),
    ]
    parameters = sum(each.numel() for each in model.parameters())
    if scheme == "float32":  # a quantized one was prepared before its weights were read
        prepare(model)
    return Recognizer(
        model=model.eval(),
        processor=processor,
        path=path,
        scheme=scheme,
        sampling_rate=processor.feature_extractor.sampling_rate,
        sites=_count_sites(model),
        min_samples=receptive_field(config),
        notices=() if scheme == "float32" else engine.notices(model.hf_quantizer.reasons, path),
        remarks=tuple(remarks),
        bytes_on_disk=size,
        float32_bytes=4 * parameters,
        folder=str(files.folder),
        revision=files.revision,
        target_lang=language,
        calibrated_on=frozenset(plan.get("audio_sha256", ())),
    )


def prepare(model: nn.Module) -> nn.Module:
    """Make every weight visible at its module, in place, without changing a result."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d) and parametrize.is_parametrized(module, "weight"):
            with one_thread():  # the norm is a sum, whose last bits depend on the number of threads
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        if type(module).__name__ == "WavLMAttention":
            attention: Any = module
            attention.torch_multi_head_self_attention = types.MethodType(_projected_attention, module)
    return model


def receptive_field(config: Any) -> int:
    """Samples that the convolutions of the extractor need to give one frame (400 for the whole family)."""
    samples = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples


def frame_stride(config: Any) -> int:
    """Samples from the start of one frame to the start of the next; each layer of an adapter multiplies them."""
    adapter = config.adapter_stride**config.num_adapter_layers if getattr(config, "add_adapter", False) else 1
    return math.prod(config.conv_stride) * int(adapter)


def _projected_attention(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
) -> tuple[Tensor, None]:
    """WavLM's attention with the projections called as modules: hidden_states (B, T, C), bias (B * heads, T, T)."""
    batch, frames, _ = hidden_states.shape
    q, k, v = (
        project(hidden_states).view(batch, frames, self.num_heads, self.head_dim).transpose(1, 2)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    bias = gated_position_bias.view(batch, self.num_heads, frames, frames)
    if attention_mask is not None:
        bias = bias.masked_fill(attention_mask.ne(1)[:, None, None, :], float("-inf"))
    dropout = self.dropout if self.training else 0.0
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return self.out_proj(context.transpose(1, 2).reshape(batch, frames, -1)), None


def _config(files: Source) -> Any:
    path = files.name
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
    except Exception as error:  # transformers checks little of a file; whatever it trips over is wrong in there
        raise InputError(f"{path}: not a readable model ({first_line(error)})") from error
    named = [str(name) for name in config.architectures] if isinstance(config.architectures, list) else []
    if named and not any(name.endswith("ForCTC") for name in named):
        raise InputError(f"{path}: {named[0]} has no CTC head; fine-tune it with CTC first")
    config.return_dict = True  # training settings that some folders carry, and that change what a call returns
    config.output_attentions = config.output_hidden_states = False
    config._attn_implementation = None  # the default of this machine, not the kernel that the folder was trained with
    steps = [*config.conv_kernel, *config.conv_stride]
    if len(config.conv_kernel) != len(config.conv_stride) or not all(type(n) is int and n > 0 for n in steps):
        raise InputError(f"{path}: conv_kernel and conv_stride in config.json are not a size for each convolution")
    return config


def _scheme(path: str, config: Any) -> str:
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return "float32"
    settings = quantization if isinstance(quantization, dict) else quantization.to_dict()
    if settings.get("quant_method") != "stablequant":
        raise InputError(f"{path}: quantized by {settings.get('quant_method')!r}, which stablequant does not read")
    if "scheme" not in settings:
        raise InputError(f"{path}: quantization_config in config.json has no scheme; write the model again")
    return str(settings["scheme"])


def _calibration(files: Source) -> dict[str, Any]:
    """What the plan of a quantized model says of its calibration; nothing where the plan cannot be read."""
    try:
        return dict(read_draft(files.folder / PLAN_FILE).calibration)
    except InputError:
        return {}


def _check_language(files: Source, config: Any, language: str | None, target_lang: str | None) -> None:
    """InputError when a language is asked for that this model cannot be switched to."""
    if target_lang is None or (language == target_lang and getattr(config, "quantization_config", None)):
        return
    if language != target_lang:
        only = f"is for the language {language}" if language else "has no adapters of languages"
        raise InputError(f"{files.name}: {only}; leave out --target-lang, or give the model with all languages")
    if target_lang not in files.languages():
        others = ", ".join(files.languages()) or "none"
        raise InputError(f"{files.name}: no adapter.{target_lang}.safetensors here; there are adapters for: {others}")


def _model(files: Source, config: Any, target_lang: str | None) -> Any:
    path = files.name
    try:
        model, info = AutoModelForCTC.from_pretrained(
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
            f"{path}: {name} is {tuple(in_file)} in the file and {tuple(by_config)} by config.json; "
            "copy the config.json that belongs to the weights"
        )
    _check_complete(path, model.eval(), info["missing_keys"], info["unexpected_keys"])
    return model


def _why_not_loaded(error: Exception) -> str:
    if "weights_only" in str(error):  # torch advises to allow code to run, which nobody should follow
        return (
            "pytorch_model.bin holds more than tensors, which is never unpickled here; save the model again with "
            "`save_pretrained`, which writes safetensors"
        )
    return f"the weights cannot be loaded ({first_line(error).removesuffix(AGAIN)}){AGAIN}"


def _check_complete(path: str, model: Any, missing: set[str], unexpected: set[str]) -> None:
    needed = zero_unread(model, missing, torch.zeros(1, PROBE))
    prefixes = {name.partition(".")[0] for name in unexpected}
    if needed and len(prefixes) == 1 and (prefix := prefixes.pop()) not in dict(model.named_children()):
        raise InputError(
            f"{path}: the names of all weights begin with {prefix!r}, as a wrapper of the model saved them; remove "
            "that from the names, or save the model inside the wrapper"
        )
    if needed:
        what = (
            "the CTC head (lm_head)"
            if needed[0].startswith("lm_head")
            else f"{len(needed)} weights ({needed[0]}, ...)"
        )
        raise InputError(f"{path}: {what} missing from the file; it is not a complete CTC model")


def _blanks(path: str, model: Any, tokenizer: Any) -> Iterator[str]:
    """One blank for all that read it: the tokenizer's, as it makes the text."""
    blank, configured = tokenizer.pad_token_id, model.config.pad_token_id
    if configured != blank:
        symbol = tokenizer.convert_ids_to_tokens(blank)
        other = tokenizer.convert_ids_to_tokens(configured) if isinstance(configured, int) else None
        yield (
            f"{path}: the blank is {blank} ({symbol!r}) by the tokenizer, which is used, and {configured} ({other!r}) "
            "by pad_token_id in config.json; correct the one that is wrong"
        )
        model.config.pad_token_id = blank


def _languages(path: str, languages: Languages) -> Iterator[str]:
    if languages.chosen is not None:
        others = f"; --target-lang chooses another of {len(languages.others) + 1}" if languages.others else ""
        yield f"{path}: recognises the language {languages.chosen}{others}"


def _count_sites(model: nn.Module) -> dict[str, int]:
    from ..engines.onednn import kernels
    from ..engines.onednn.modules import IntegerModule

    quantized = sum(isinstance(module, QuantizedSite) for module in model.modules())
    integer = 0 if kernels.way() == "float" else sum(isinstance(module, IntegerModule) for module in model.modules())
    floating = sum(isinstance(module, nn.Linear | nn.Conv1d) for module in model.modules())
    return {"integer": integer, "simulated": quantized - integer, "float": floating}
