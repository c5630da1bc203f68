"""What a user could run a Whisper model with, each as a listener: a waveform and a number of beams in, text out.

As in peers.py, a peer is made once from the float folder and opened in the process that is to be timed, which imports
its package. All decode alike: English text without timestamps, no temperature fallback, no voice activity
detection, no text of the window before, the tokens suppressed that the model's generation_config names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper_exports
import whisper_ggml
from transformers import GenerationConfig, WhisperProcessor
from whisper_search import search

from stablequant.models.checkpoint import read
from stablequant.models.tasks.base import Decoding
from stablequant.speech import audio
from stablequant.workflows.transcribe import transcribe_files

RATE = 16_000  # samples a second
LANGUAGE = "en"
TUNED = {"CT2_FORCE_CPU_ISA": "AVX512"}  # CTranslate2 stays at AVX2 on a processor of AMD's; MKL is slow on these

Long = Callable[[str], str]  # the path of a long recording -> text


@dataclass(frozen=True)
class Listener:
    """An open model."""

    hear: Callable[[np.ndarray, int], str]  # waveform (samples,), beams -> text
    long: Mapping[str, Long] = field(default_factory=dict)  # ways through a long recording, greedy


@dataclass(frozen=True)
class Workshop:
    """Where the files of the peers are written, each when first asked for."""

    model: Path  # the float folder
    folder: Path
    samples: Sequence[np.ndarray] = ()  # waveforms to calibrate with

    def ctranslate2(self) -> Path:
        """CTranslate2's folder in float32; it quantizes the weights when it loads them."""
        from ctranslate2.converters import TransformersConverter

        path = self.folder / "ctranslate2"
        if not path.exists():
            files = ["tokenizer.json"]
            TransformersConverter(str(self.model), copy_files=files).convert(str(path))
            WhisperProcessor.from_pretrained(self.model).feature_extractor.save_pretrained(path)
        return path

    def ggml(self, kind: int) -> Path:
        path = self.folder / f"ggml-{kind}.bin"
        return path if path.exists() else whisper_ggml.ggml_file(self.model, path, kind)

    def openvino(self, int8: bool) -> Path:
        path = self.folder / ("openvino-int8" if int8 else "openvino")
        if path.exists():
            return path
        features = Features(self.model)
        samples = [features(each).numpy() for each in self.samples] if int8 else None
        return whisper_exports.openvino_folder(self.model, path, samples)

    def onnx(self) -> Path:
        path = self.folder / "onnx"
        return path if path.exists() else whisper_exports.onnx_folder(self.model, path)

    def onnx_int8(self) -> Path:
        path = self.folder / "onnx-int8"
        return path if path.exists() else whisper_exports.onnx_int8(self.onnx(), path)


class Features:
    """Log-mel features (1, bins, 3000) of a waveform."""

    def __init__(self, folder: Path) -> None:
        self.processor = WhisperProcessor.from_pretrained(folder)

    def __call__(self, waveform: np.ndarray, **options: Any) -> torch.Tensor:
        made = self.processor.feature_extractor(waveform, sampling_rate=RATE, return_tensors="pt", **options)
        features: torch.Tensor = made.input_features
        return features

    def text(self, tokens: Any) -> str:
        return str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True))


def samples_of(path: str) -> np.ndarray:
    return audio.load(audio.whole_file(path), RATE)


def torch_listener(folder: Path, threads: int, dtype: torch.dtype = torch.float32) -> Listener:
    torch.set_num_threads(threads)
    model, features = whisper_exports.load(folder).to(dtype), Features(folder)
    asked = {"language": LANGUAGE, "task": "transcribe"} if model.generation_config.is_multilingual else {}

    @torch.inference_mode()
    def hear(waveform: np.ndarray, beams: int) -> str:
        tokens = model.generate(features(waveform).to(dtype), num_beams=beams, do_sample=False, **asked)
        return features.text(tokens[0])

    @torch.inference_mode()
    def in_sequence(path: str) -> str:
        options = {"sampling_rate": RATE, "return_tensors": "pt", "truncation": False, "return_attention_mask": True}
        made = features.processor.feature_extractor(samples_of(path), padding="longest", **options)
        mask, mel = made.attention_mask, made.input_features.to(dtype)
        return features.text(model.generate(mel, attention_mask=mask, return_timestamps=True, **asked)[0])

    def in_batches(path: str) -> str:
        from transformers import pipeline

        parts = {"tokenizer": features.processor.tokenizer, "feature_extractor": features.processor.feature_extractor}
        heard = pipeline("automatic-speech-recognition", model, dtype=dtype, chunk_length_s=30, batch_size=8, **parts)
        return str(heard(samples_of(path), generate_kwargs=asked)["text"])

    return Listener(hear, {"in sequence": in_sequence, "batches of 8": in_batches})


def our_listener(folder: Path, threads: int) -> Listener:
    """Ours as its users load it."""
    torch.set_num_threads(threads)
    recognizer = read.load(str(folder))

    def hear(waveform: np.ndarray, beams: int) -> str:
        return replace(recognizer, decoding=Decoding(beams=beams)).transcribe(waveform)

    def long(path: str) -> str:
        ((_, heard),) = transcribe_files(recognizer, [path])
        return str(heard.text)

    return Listener(hear, {"transcribe": long})


def faster_whisper_listener(
    folder: Path, threads: int, kind: str, environment: Mapping[str, str] | None = None
) -> Listener:
    os.environ.update(environment or {})  # read when the library is loaded
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type=kind, cpu_threads=threads, num_workers=1)
    off = {"compression_ratio_threshold": None, "log_prob_threshold": None, "no_speech_threshold": None}
    plain: dict[str, Any] = {"language": LANGUAGE, "temperature": 0.0, "condition_on_previous_text": False, **off}

    def joined(found: Any) -> str:
        return " ".join(segment.text.strip() for segment in found[0])

    def hear(waveform: np.ndarray, beams: int) -> str:
        return joined(model.transcribe(waveform, beam_size=beams, without_timestamps=True, vad_filter=False, **plain))

    def in_sequence(path: str) -> str:
        return joined(model.transcribe(samples_of(path), beam_size=1, **plain))

    def in_batches(path: str) -> str:
        return joined(BatchedInferencePipeline(model).transcribe(samples_of(path), batch_size=8, beam_size=1, **plain))

    return Listener(hear, {"in sequence": in_sequence, "batches of 8": in_batches})


def whisper_cpp_listener(file: Path, threads: int) -> Listener:
    from pywhispercpp.model import Model

    common: dict[str, Any] = {"n_threads": threads, "language": LANGUAGE, "no_context": True, "suppress_nst": True}
    common |= {"temperature": 0.0, "temperature_inc": 0.0, "no_speech_thold": 1.0, "greedy": {"best_of": 1}}
    common |= {"print_progress": False, "print_realtime": False, "redirect_whispercpp_logs_to": None}
    models: dict[int, Any] = {}  # the strategy is fixed when a model is opened

    def ask(waveform: np.ndarray, beams: int, **options: Any) -> str:
        if beams not in models:
            search = {"beam_size": beams, "patience": -1.0}
            models[beams] = Model(str(file), params_sampling_strategy=int(beams > 1), beam_search=search, **common)
        return " ".join(segment.text.strip() for segment in models[beams].transcribe(waveform, **options))

    def hear(waveform: np.ndarray, beams: int) -> str:
        return ask(waveform, beams, no_timestamps=True, single_segment=True)

    def long(path: str) -> str:
        return ask(samples_of(path), 1, no_timestamps=False, single_segment=False)

    return Listener(hear, {"in sequence": long})


def openvino_listener(folder: Path, threads: int, precision: str = "f32") -> Listener:
    import openvino_genai

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    pipeline = openvino_genai.WhisperPipeline(str(folder), "CPU", **settings)
    language = {"language": f"<|{LANGUAGE}|>"} if pipeline.get_generation_config().is_multilingual else {}

    def hear(waveform: np.ndarray, beams: int) -> str:
        return str(pipeline.generate(waveform, num_beams=beams, **language).texts[0])

    def long(path: str) -> str:
        return str(pipeline.generate(samples_of(path), return_timestamps=True, **language).texts[0])

    return Listener(hear, {"in sequence": long})


def ort_listener(folder: Path, threads: int) -> Listener:
    """ONNX Runtime under a greedy or beam search of numpy: it has no loop for Whisper that builds here."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    encoder, step = (
        onnxruntime.InferenceSession(str(folder / name), settings, providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "step.onnx")
    )
    features, generation = Features(folder), GenerationConfig.from_pretrained(folder)
    if generation.is_multilingual:
        features.processor.tokenizer.set_prefix_tokens(LANGUAGE, "transcribe", predict_timestamps=False)
    prompt = features.processor.tokenizer.prefix_tokens
    past = [each for each in step.get_inputs() if each.name.startswith("past.")]

    def hear(waveform: np.ndarray, beams: int) -> str:
        states = encoder.run(None, {"input_features": features(waveform).numpy()})
        cross = {f"cross.{number}": each for number, each in enumerate(states)}
        kept = [np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32) for each in past]

        def ahead(tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
            nonlocal kept
            inputs = {f"past.{n}": each if len(rows) == 1 else each[rows] for n, each in enumerate(kept)}
            logits, *kept = step.run(None, {"tokens": tokens, **cross, **inputs})
            found: np.ndarray = logits[:, -1]
            return found

        return features.text(search(ahead, prompt, generation, beams))

    return Listener(hear)


@dataclass(frozen=True)
class Peer:
    make: Callable[[Workshop], Path]
    open: Callable[..., Listener]  # the file, threads


FASTER = {name: partial(faster_whisper_listener, kind=name) for name in ("float32", "int8", "int16", "bfloat16")}
PEERS = {
    "torch-bf16": Peer(lambda shop: shop.model, partial(torch_listener, dtype=torch.bfloat16)),
    **{f"faster-whisper-{name}": Peer(Workshop.ctranslate2, opened) for name, opened in FASTER.items()},
    "faster-whisper-int8-avx512": Peer(
        Workshop.ctranslate2, partial(faster_whisper_listener, kind="int8", environment=TUNED)
    ),
    "whisper.cpp-f16": Peer(lambda shop: shop.ggml(whisper_ggml.F16), whisper_cpp_listener),
    "whisper.cpp-q8_0": Peer(lambda shop: shop.ggml(whisper_ggml.Q8_0), whisper_cpp_listener),
    "openvino-fp32": Peer(lambda shop: shop.openvino(False), openvino_listener),
    "openvino-int8": Peer(lambda shop: shop.openvino(True), openvino_listener),
    "openvino-int8-bf16": Peer(lambda shop: shop.openvino(True), partial(openvino_listener, precision="bf16")),
    "onnxruntime-fp32": Peer(Workshop.onnx, ort_listener),
    "onnxruntime-int8": Peer(Workshop.onnx_int8, ort_listener),
}
PACKAGES = ("ctranslate2", "faster-whisper", "nncf", "onnxruntime", "openvino", "openvino-genai", "pywhispercpp")


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    installed = {each.name.lower() for each in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}
