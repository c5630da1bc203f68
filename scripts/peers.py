"""What a user could run instead of the integer model, each as a function from a waveform to logits.

Built from one float folder: the ONNX file and the OpenVINO graphs are made when the first peer asks for them. The
packages are imported by the peer that needs them, so that a missing one is that peer's reason and nobody else's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCTC

Answer = Callable[[np.ndarray], np.ndarray]  # waveform (1, samples) -> logits (1, frames, vocabulary)


SHORTEST = 1600  # samples that the ONNX model answers at least


class Workshop:
    """What the peers are built from: the ONNX file and the OpenVINO graphs, each made when first asked for."""

    def __init__(self, model: Path, samples: Sequence[np.ndarray], threads: int) -> None:
        self.model, self.samples, self.threads = model, samples, threads
        self._folder = tempfile.TemporaryDirectory(prefix="stablequant-peers-")

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def file(self, name: str) -> Path:
        return Path(self._folder.name) / name

    @cached_property
    def onnx(self) -> Path:
        """The float model as ONNX, for any length of audio."""
        path = self.file("float.onnx")
        torch.onnx.export(
            Logits(load(self.model)),
            (torch.from_numpy(self.samples[0]),),
            path,
            input_names=["waveform"],
            output_names=["logits"],
            dynamic_shapes={"waveform": {1: torch.export.Dim("samples", min=SHORTEST)}},
            dynamo=True,
            external_data=False,
        )
        return path

    @cached_property
    def openvino(self) -> Any:
        import openvino

        return openvino.convert_model(self.onnx)

    @cached_property
    def nncf(self) -> Any:
        """The OpenVINO graph with NNCF's default int8 recipe for transformers."""
        import nncf

        return nncf.quantize(
            self.openvino,
            nncf.Dataset(self.samples, lambda sample: {0: sample}),
            subset_size=len(self.samples),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
        )


class Logits(torch.nn.Module):
    """A model whose answer is one tensor, as an export wants it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(waveform).logits
        return logits


def load(folder: Path) -> Any:
    return AutoModelForCTC.from_pretrained(folder).eval()


def torch_answer(folder: Path, dtype: torch.dtype = torch.float32) -> Answer:
    model = load(folder)
    model = model if dtype == torch.float32 else model.to(dtype)

    def answer(waveform: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: torch.Tensor = model(torch.from_numpy(waveform).to(dtype)).logits
            return logits.float().numpy()

    return answer


def ort_answer(file: Path, threads: int) -> Answer:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    return lambda waveform: session.run(None, {"waveform": waveform})[0]


def ort_int8(workshop: Workshop) -> Answer:
    from onnxruntime import quantization as ort

    class Samples(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"waveform": sample} for sample in workshop.samples]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    out = workshop.file("int8.onnx")
    ort.quantize_static(
        str(workshop.onnx),
        str(out),
        Samples(),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
    )
    return ort_answer(out, workshop.threads)


def openvino_answer(graph: Any, threads: int, precision: str) -> Answer:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda waveform: next(iter(request.infer({0: waveform}).values()))


PEERS: dict[str, Callable[[Workshop], Answer]] = {
    "torch-bf16": lambda shop: torch_answer(shop.model, torch.bfloat16),
    "onnxruntime-fp32": lambda shop: ort_answer(shop.onnx, shop.threads),
    "onnxruntime-int8": ort_int8,
    "openvino-fp32": lambda shop: openvino_answer(shop.openvino, shop.threads, "f32"),
    "nncf-int8": lambda shop: openvino_answer(shop.nncf, shop.threads, "f32"),
    "nncf-int8-bf16": lambda shop: openvino_answer(shop.nncf, shop.threads, "bf16"),
}
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    installed = {each.name.lower() for each in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}
