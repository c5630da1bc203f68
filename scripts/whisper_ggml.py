"""The file that whisper.cpp loads, made from the Hugging Face folder of a Whisper model: float16, or 8 bits (Q8_0).

The format is that of whisper.cpp's models/convert-h5-to-ggml.py and examples/quantize: a header of eleven numbers, the
mel filters, the words of the vocabulary, then the tensors by OpenAI's names. Q8_0 has one float16 scale for 32 values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from transformers import WhisperFeatureExtractor, WhisperTokenizer
from whisper_exports import load

MAGIC = 0x67676D6C
F32, F16, Q8_0 = 0, 1, 8  # types of tensors
FILE_OF = {F16: 1, Q8_0: 2007}  # types of files: version 2 of the quantized formats, type 7
BLOCK = 32  # values that share a scale in Q8_0
LAYER = {  # transformers' names -> OpenAI's; attention is cross-attention after encoder_attn
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "layers": "blocks",
}
OUTSIDE = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
}


def ggml_file(folder: Path, out: Path, kind: int = F16) -> Path:
    model, extractor = load(folder), WhisperFeatureExtractor.from_pretrained(folder)
    with out.open("wb") as file:
        file.write(struct.pack("<12i", MAGIC, *header(model.config), FILE_OF[kind]))
        filters = np.ascontiguousarray(extractor.mel_filters.T, np.float32)  # (bins, frequencies)
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        words = list(vocabulary(folder, model.config.eos_token_id))
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for name, value in model.model.state_dict().items():
            write(file, renamed(name), value.numpy(), kind)
    return out


def header(config: Any) -> list[int]:
    encoder = [config.max_source_positions, config.d_model, config.encoder_attention_heads, config.encoder_layers]
    decoder = [config.max_target_positions, config.d_model, config.decoder_attention_heads, config.decoder_layers]
    return [config.vocab_size, *encoder, *decoder, config.num_mel_bins]


def vocabulary(folder: Path, end: int) -> Iterator[bytes]:
    """The words before the special tokens, which whisper.cpp names itself, as bytes."""
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}  # GPT-2's letters for bytes
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    for word in tokenizer.convert_ids_to_tokens(range(end)):
        yield bytes(byte_of[letter] for letter in word)


def renamed(name: str) -> str:
    for before, after in OUTSIDE.items():
        if name.startswith(before):
            return name.replace(before, after)
    return ".".join(LAYER.get(part, part) for part in name.split("."))


def write(file: BinaryIO, name: str, value: np.ndarray, kind: int) -> None:
    """A tensor: vectors and positions in float32, convolutions in float16, the rest as asked."""
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        value = value[:, None]
    if value.ndim < 2 or name.endswith("bias") or "positional" in name:
        kind = F32
    elif value.ndim == 3:
        kind = F16
    name_bytes = name.encode()
    file.write(struct.pack("<3i", value.ndim, len(name_bytes), kind))
    file.write(struct.pack(f"<{value.ndim}i", *reversed(value.shape)) + name_bytes)
    file.write({F32: floats, F16: halves, Q8_0: blocks}[kind](value))


def floats(value: np.ndarray) -> bytes:
    return value.astype("<f4").tobytes()


def halves(value: np.ndarray) -> bytes:
    return value.astype("<f2").tobytes()


def blocks(value: np.ndarray) -> bytes:
    """Q8_0: of each 32 values a float16 scale, the largest of them / 127, and their codes."""
    rows = value.reshape(-1, BLOCK)
    scales = np.abs(rows).max(1, keepdims=True) / 127
    codes = np.rint(rows / np.where(scales == 0, 1, scales))
    packed = np.empty(len(rows), [("scale", "<f2"), ("codes", "i1", BLOCK)])
    packed["scale"], packed["codes"] = scales[:, 0], codes
    return packed.tobytes()
