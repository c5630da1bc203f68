"""Files of other runtimes made from the Hugging Face folder of a Whisper model: ONNX, OpenVINO, GGML.

The exporters that users would take do not run beside this project's transformers (5.23): optimum-onnx 0.1 wants less
than 4.58, optimum-intel takes no release after 5.0, and onnxruntime's own convert_to_onnx for Whisper (1.31) hands the
decoder a list where it expects a cache. So the decoder's step is written out here, from the model's own modules, in
operations that every exporter understands; what the runtimes then do with the graph is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSpeechSeq2Seq, GenerationConfig, WhisperProcessor


def load(folder: Path) -> Any:
    return AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float32).eval()


class Encoder(nn.Module):
    """Log-mel features (batch, bins, 3000) -> states (batch, 1500, width)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.encoder

    def forward(self, input_features: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_features).last_hidden_state
        return states


class Cross(nn.Module):
    """States of the encoder -> keys and values of each decoder layer, (batch, heads, 1500, width of a head) each."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layers = model.model.decoder.layers
        self.heads = model.config.decoder_attention_heads

    def forward(self, states: Tensor) -> list[Tensor]:
        pairs = [(layer.encoder_attn.k_proj, layer.encoder_attn.v_proj) for layer in self.layers]
        return [split(product(states), self.heads) for pair in pairs for product in pair]


class Step(nn.Module):
    """Tokens (batch, new) after `past` -> logits (batch, new, vocabulary) and the keys and values, old and new."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.decoder, model.proj_out
        self.heads = model.config.decoder_attention_heads

    def forward(self, tokens: Tensor, cross: list[Tensor], past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        before, new = past[0].shape[2], tokens.shape[1]
        places = torch.arange(before + new)
        x = self.decoder.embed_tokens(tokens) + self.decoder.embed_positions.weight[places[before:]]
        visible = places <= places[before:, None]
        kept = []
        for number, layer in enumerate(self.decoder.layers):
            pair = slice(2 * number, 2 * number + 2)
            y = layer.self_attn_layer_norm(x)
            mine = (split(layer.self_attn.k_proj(y), self.heads), split(layer.self_attn.v_proj(y), self.heads))
            keys, values = (torch.cat(each, 2) for each in zip(past[pair], mine, strict=True))
            kept += [keys, values]
            x = x + self.attend(layer.self_attn, y, keys, values, visible)
            y = layer.encoder_attn_layer_norm(x)
            x = x + self.attend(layer.encoder_attn, y, *cross[pair])
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        return self.head(self.decoder.layer_norm(x)), kept

    def attend(self, block: Any, y: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None) -> Tensor:
        found = F.scaled_dot_product_attention(split(block.q_proj(y), self.heads), keys, values, attn_mask=visible)
        joined: Tensor = block.out_proj(found.transpose(1, 2).flatten(2))
        return joined


def split(x: Tensor, heads: int) -> Tensor:
    """(batch, steps, width) -> (batch, heads, steps, width of a head)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


class Stateful(nn.Module):
    """A step with the inputs that OpenVINO GenAI feeds: the keys and values become states of the compiled model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.cross, self.step = Cross(model), Step(model)

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, beam_idx: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        cross = self.cross(encoder_hidden_states)
        logits, kept = self.step(input_ids, cross, [each.index_select(0, beam_idx) for each in past])
        return (logits, *kept, *cross)


def openvino_folder(model_folder: Path, out: Path, samples: Sequence[np.ndarray] | None = None) -> Path:
    """The files of openvino_genai.WhisperPipeline, as `optimum-cli export openvino` would name them.

    With `samples`, features (1, bins, 3000) to calibrate with, in int8: the encoder's products by NNCF's recipe for
    transformers, weights and inputs, and the weights of the decoder.
    """
    import openvino
    import openvino_tokenizers

    model = load(model_folder)
    out.mkdir(parents=True)
    with torch.inference_mode():
        graphs = {"encoder_model": stateless(model), "decoder_model": stateful(model)}
    if samples is not None:
        graphs = openvino_int8(graphs, samples)
    processor = WhisperProcessor.from_pretrained(model_folder)
    tokenizers = openvino_tokenizers.convert_tokenizer(processor.tokenizer, with_detokenizer=True)
    graphs |= dict(zip(("tokenizer", "detokenizer"), tokenizers, strict=True))
    for name, graph in graphs.items():
        openvino.save_model(graph, out / f"openvino_{name}.xml", compress_to_fp16=False)
    for each in (model.config, model.generation_config, processor.feature_extractor, processor.tokenizer):
        each.save_pretrained(out)
    return out


def openvino_int8(graphs: dict[str, Any], samples: Sequence[np.ndarray]) -> dict[str, Any]:
    import nncf

    encoder = nncf.quantize(
        graphs["encoder_model"],
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )
    decoder = nncf.compress_weights(graphs["decoder_model"], mode=nncf.CompressWeightsMode.INT8_ASYM)
    return {"encoder_model": encoder, "decoder_model": decoder}


def stateless(model: Any) -> Any:
    import openvino

    features = (1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    graph = openvino.convert_model(
        Encoder(model), example_input=torch.zeros(features), input=[("input_features", [-1, *features[1:]])]
    )
    graph.output(0).get_tensor().set_names({"last_hidden_state"})
    return graph


def stateful(model: Any) -> Any:
    """OpenVINO's graph of `Stateful`; the cross keys and values are computed when a state is reset."""
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    config = model.config
    heads, width = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    past = [torch.zeros(2, heads, 3, width) for _ in range(2 * config.decoder_layers)]
    example = {
        "input_ids": torch.zeros(2, 2, dtype=torch.int64),
        "encoder_hidden_states": torch.zeros(2, config.max_source_positions, config.d_model),
        "beam_idx": torch.arange(2, dtype=torch.int32),
        "past": past,
    }
    graph = openvino.convert_model(Stateful(model), example_input=example)
    logits, *kept = graph.outputs
    logits.get_tensor().set_names({"logits"})
    for number, (before, after) in enumerate(zip(graph.inputs[3:], kept, strict=False)):
        before.get_tensor().set_names({f"past.{number}"})
        before.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, width]))
        after.get_tensor().set_names({f"kept.{number}"})
    for output in kept[len(past) :]:
        keep_until_reset(graph, output)
    graph.validate_nodes_and_infer_types()
    pairs = {f"past.{number}": f"kept.{number}" for number in range(len(past))}
    apply_make_stateful_transformation(graph, pairs)
    start_empty(graph, heads, width)
    return graph


def keep_until_reset(graph: Any, output: Any) -> None:
    """An output becomes a state: computed once, then read by whatever took the output."""
    from openvino import opset13 as ops
    from openvino.op.util import Variable, VariableInfo

    source = output.get_node().input_value(0)
    readers = [each for each in source.get_target_inputs() if each.get_node().get_type_name() != "Result"]
    graph.remove_result(output.get_node())
    about = VariableInfo()
    about.data_shape, about.data_type = source.get_partial_shape(), source.get_element_type()
    about.variable_id = f"cross.{source.get_any_name()}"
    variable = Variable(about)
    state = ops.read_value(source, variable)
    for reader in readers:
        reader.replace_source_output(state.output(0))
    graph.add_variables([variable])
    graph.add_sinks([ops.assign(state, variable)])


def start_empty(graph: Any, heads: int, width: int) -> None:
    """The states of the decoder's own keys and values start with no step, for as many beams as there are tokens."""
    from openvino import opset13 as ops

    beams = ops.gather(ops.shape_of(graph.input("input_ids")), ops.constant(np.array([0])), ops.constant(0))
    shape = ops.concat([beams, ops.constant(np.array([heads, 0, width]))], axis=0)
    for each in graph.get_ops():
        if each.get_type_name() == "ReadValue" and not each.get_variable_id().startswith("cross."):
            each.set_arguments([ops.broadcast(ops.constant(0.0, dtype=np.float32), shape).output(0)])
    graph.validate_nodes_and_infer_types()


class CrossOfFeatures(nn.Module):
    """Log-mel features -> what the decoder needs of them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.cross = Encoder(model), Cross(model)

    def forward(self, input_features: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.cross(self.encoder(input_features))
        return found


def onnx_folder(model_folder: Path, out: Path) -> Path:
    """encoder.onnx (features -> cross.*) and step.onnx (tokens, cross.*, past.* -> logits, kept.*)."""
    model = load(model_folder)
    model.proj_out.weight = nn.Parameter(model.proj_out.weight.detach().clone())  # untied, or it stays out of int8
    out.mkdir(parents=True)
    config = model.config
    heads, width = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    count, frames = 2 * config.decoder_layers, config.max_source_positions
    names = {kind: [f"{kind}.{number}" for number in range(count)] for kind in ("cross", "past", "kept")}
    features = (torch.zeros(1, config.num_mel_bins, 2 * frames),)
    common: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(
        CrossOfFeatures(model).eval(),
        features,
        out / "encoder.onnx",
        input_names=["input_features"],
        output_names=names["cross"],
        **common,
    )
    tokens = torch.zeros(3, 2, dtype=torch.int64)
    cross = [torch.zeros(1, heads, frames, width) for _ in range(count)]  # of one recording, for all beams
    past = [torch.zeros(3, heads, 5, width) for _ in range(count)]
    batch, new, before = (
        torch.export.Dim(name, max=config.max_target_positions // 2) for name in ("b", "new", "before")
    )
    shapes = {"tokens": {0: batch, 1: new}, "cross": [{}] * count, "past": [{0: batch, 2: before}] * count}
    torch.onnx.export(
        Step(model).eval(),
        (tokens, cross, past),
        out / "step.onnx",
        input_names=["tokens", *names["cross"], *names["past"]],
        output_names=["logits", *names["kept"]],
        dynamic_shapes=shapes,
        **common,
    )
    accompany(model_folder, out)
    return out


def accompany(folder: Path, out: Path) -> None:
    """What a loop around the graphs reads: processor and settings of generation."""
    for each in (WhisperProcessor, GenerationConfig):
        each.from_pretrained(folder).save_pretrained(out)


def onnx_int8(floats: Path, out: Path) -> Path:
    """Dynamic int8 of the matrix products, a scale for each output channel: what the field does to Whisper in ONNX."""
    from onnxruntime import quantization as ort

    out.mkdir(parents=True)
    for name in ("encoder.onnx", "step.onnx"):
        ort.quantize_dynamic(
            floats / name,
            out / name,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=ort.QuantType.QInt8,
        )
    accompany(floats, out)
    return out
