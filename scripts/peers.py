"""What a user could run instead of the integer model, each as a function from a waveform to logits.

A peer has two halves: `make` writes the file that it runs, from one float folder (some share theirs), and `open` loads
that file, in the process that is to be timed, which has done nothing else. The packages are imported by the peer that
needs them, so that a missing one is that peer's reason and nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCTC

Answer = Callable[[np.ndarray], np.ndarray]  # waveform (1, samples) -> logits (1, frames, vocabulary)


SHORTEST = 1600  # samples that the ONNX model answers at least


@dataclass(frozen=True)
class Workshop:
    """Where the files of the peers are written, each when first asked for."""

    model: Path
    samples: Sequence[np.ndarray]  # to calibrate with
    folder: Path

    def onnx(self) -> Path:
        """The float model as ONNX, for any length of audio."""
        path = self.folder / "float.onnx"
        if not path.exists():
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

    def onnx_int8(self) -> Path:
        """ONNX Runtime's own static int8 with a scale for each output channel."""
        from onnxruntime import quantization as ort

        class Samples(ort.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, samples: Sequence[np.ndarray]) -> None:
                self.left = [{"waveform": sample} for sample in samples]

            def get_next(self) -> dict[str, np.ndarray] | None:
                return self.left.pop() if self.left else None

        path = self.folder / "int8.onnx"
        ort.quantize_static(
            str(self.onnx()),
            str(path),
            Samples(self.samples),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        )
        return path

    def nncf(self) -> Path:
        """The OpenVINO graph with NNCF's default int8 recipe for transformers."""
        import nncf
        import openvino

        path = self.folder / "nncf.xml"
        if not path.exists():
            graph = nncf.quantize(
                openvino.convert_model(self.onnx()),
                nncf.Dataset(self.samples, lambda sample: {0: sample}),
                subset_size=len(self.samples),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
            )
            openvino.save_model(graph, path, compress_to_fp16=False)
        return path


@dataclass(frozen=True)
class Peer:
    """How the file of a peer is made, and opened in a process of its own with a number of threads."""

    make: Callable[[Workshop], Path]
    open: Callable[[Path, int], Answer]


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


def torch_answer(folder: Path, threads: int, dtype: torch.dtype = torch.float32) -> Answer:
    torch.set_num_threads(threads)
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


def openvino_answer(file: Path, threads: int, precision: str = "f32") -> Answer:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
    return lambda waveform: next(iter(request.infer({0: waveform}).values()))


PEERS = {
    "torch-bf16": Peer(lambda shop: shop.model, partial(torch_answer, dtype=torch.bfloat16)),
    "onnxruntime-fp32": Peer(Workshop.onnx, ort_answer),
    "onnxruntime-int8": Peer(Workshop.onnx_int8, ort_answer),
    "openvino-fp32": Peer(Workshop.onnx, openvino_answer),
    "nncf-int8": Peer(Workshop.nncf, openvino_answer),
    "nncf-int8-bf16": Peer(Workshop.nncf, partial(openvino_answer, precision="bf16")),
}
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    installed = {each.name.lower() for each in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}
