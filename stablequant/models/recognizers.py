"""Load a speech recogniser, float or quantized, and make its structure ready to quantize.

Two things in the family hide weights from a quantizer, and `prepare` undoes both without changing a result: the
positional convolution computes its weight from a norm and a direction at every call (weight_norm, Salimans & Kingma
2016), and WavLM passes its projections' weights to `F.multi_head_attention_forward` without calling the modules.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, Wav2Vec2Processor

from ..foundation.errors import InputError
from ..foundation.reproducible import one_thread
from . import folder_check as safety
from .tasks import ctc

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PACK_SECONDS = 30.0  # of audio in one call: longer gains little speed and takes more memory
FASTEST = 1_000_000  # Hz: no recording is sampled faster
VOCABULARY = "vocab.json"  # of every CTC tokenizer of the family
AGAIN = "; copy the model again"
SETTINGS = ("*.json", "*.txt", "*.model")


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
        return ctc.text(logits.argmax(-1).numpy(), self.processor.tokenizer)

    def transcribe(self, waveform: np.ndarray) -> str:
        return self.decode(self.logits(waveform))

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

    def bytes_on_disk(self) -> int:
        """Bytes of the files that loading reads: weights in one format, config, plan, processor."""
        folder = _folder(self.path)
        weights = next((found for pattern in WEIGHTS if (found := list(folder.glob(pattern)))), [])
        settings = [path for pattern in SETTINGS for path in folder.glob(pattern)]
        return sum(path.stat().st_size for path in {*weights, *settings})


def load(path: str) -> Recognizer:
    """The recogniser in a folder or hub id, float or written by `sfm-quant calibrate`.

    Raises InputError when it is not a CTC model of the family, or when weights are missing, cut short or of another
    shape. Weights that a float model has no use for are left alone, as transformers does (checkpoints of the hub often
    carry the pre-training heads); a quantized model must match its file key by key.
    """
    from ..engines import onednn as engine
    from . import checkpoint  # noqa: F401  (registers the format with transformers)

    if Path(path).is_dir():
        safety.check_folder(Path(path))
    config = _config(path)
    scheme = _scheme(path, config)
    model = _model(path, config)
    prepare(model)
    processor = _processor(path)
    return Recognizer(
        model=model.eval(),
        processor=processor,
        path=path,
        scheme=scheme,
        sampling_rate=processor.feature_extractor.sampling_rate,
        sites=_count_sites(model),
        min_samples=receptive_field(config),
        notices=() if scheme == "float32" else engine.notices(model, path),
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


def _folder(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, local_files_only=True))


def _config(path: str) -> Any:
    if not Path(path).exists() and not HUB_ID.fullmatch(path):
        raise InputError(f"{path}: no such folder; correct the path, or give a hub id (owner/name)")
    if Path(path).is_file():
        raise InputError(f"{path}: a file; give the folder of a Hugging Face model")
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: no config.json here; give the folder of a Hugging Face model")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers checks little of a file; whatever it trips over is wrong in there
        hint = "" if Path(path).exists() else "; give a folder, or a hub id that can be reached"
        raise InputError(f"{path}: not a readable model ({_first_line(error)}){hint}") from error
    if hasattr(config, "auto_map"):  # on the hub; a folder is told before
        raise InputError(f"{path}: asks for code of its own (auto_map), which stablequant never runs")
    if config.model_type not in FAMILIES:
        raise InputError(f"{path}: model type {config.model_type!r} is not one of {', '.join(FAMILIES)}")
    architectures = [str(name) for name in config.architectures] if isinstance(config.architectures, list) else []
    if architectures and not any(name.endswith("ForCTC") for name in architectures):
        raise InputError(f"{path}: {architectures[0]} has no CTC head; fine-tune it with CTC first")
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


def _model(path: str, config: Any) -> Any:
    try:
        model, info = AutoModelForCTC.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # as above
        raise InputError(
            f"{path}: the weights cannot be loaded ({_first_line(error).removesuffix(AGAIN)}){AGAIN}"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        what = (
            "the CTC head (lm_head)"
            if missing[0].startswith("lm_head")
            else f"{len(missing)} weights ({missing[0]}, ...)"
        )
        raise InputError(f"{path}: {what} missing from the file; it is not a complete CTC model")
    if info["mismatched_keys"]:
        raise InputError(
            f"{path}: weights of another shape than config.json says ({sorted(info['mismatched_keys'])[0]})"
        )
    return model


def _processor(path: str) -> Any:
    try:
        feature_extractor = AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as above
        absent = Path(path).is_dir() and not (Path(path) / VOCABULARY).is_file()
        why = f"no {VOCABULARY}" if absent else _first_line(error)
        raise InputError(
            f"{path}: no usable feature extractor and tokenizer beside the model ({why}); copy those files as well"
        ) from error
    rate = feature_extractor.sampling_rate
    if type(rate) is not int or not 0 < rate < FASTEST:
        raise InputError(f"{path}: sampling_rate of the feature extractor is {rate!r}; give the one in Hz")
    return Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=tokenizer)


def _count_sites(model: nn.Module) -> dict[str, int]:
    from ..engines.onednn import kernels
    from ..engines.onednn.modules import IntegerModule

    quantized = sum(isinstance(module, IntegerModule) for module in model.modules())
    floating = sum(isinstance(module, nn.Linear | nn.Conv1d) for module in model.modules())
    simulated = quantized if kernels.way() == "float" else 0
    return {"integer": quantized - simulated, "simulated": simulated, "float": floating}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
