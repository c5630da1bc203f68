"""Models with the shape of published ones and random weights, which latency and memory do not depend on.

python scripts/shapes.py hubert-large build/hubert-large
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCTC,
    HubertConfig,
    PretrainedConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WavLMConfig,
)

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
LARGE: dict[str, Any] = {  # facebook/hubert-large-ls960-ft
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "conv_dim": (64,) * 7,
    "num_conv_pos_embedding_groups": 2,
}
SHAPES: dict[str, PretrainedConfig] = {
    "wav2vec2-base": Wav2Vec2Config(vocab_size=len(VOCABULARY)),  # the defaults are facebook/wav2vec2-base-960h
    "hubert-large": HubertConfig(vocab_size=len(VOCABULARY), **LARGE),
    "wavlm-base": WavLMConfig(vocab_size=len(VOCABULARY)),  # the defaults are microsoft/wavlm-base
    "tiny": Wav2Vec2Config(vocab_size=len(VOCABULARY), **TINY),  # to see that a script runs
}


def build(shape: str, folder: Path, seed: int = 0) -> Path:
    """Write a model of a shape, its weights drawn from the seed, with a processor for English letters."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    AutoModelForCTC.from_config(SHAPES[shape]).save_pretrained(folder)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({symbol: code for code, symbol in enumerate(VOCABULARY)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    Wav2Vec2Processor(feature_extractor=Wav2Vec2FeatureExtractor(), tokenizer=tokenizer).save_pretrained(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(build(options.shape, options.folder, options.seed))


if __name__ == "__main__":
    main()
