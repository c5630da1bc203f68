"""The scripts about Whisper: reading CTranslate2's file, the search for runtimes without one, whisper.cpp's blocks."""

from __future__ import annotations

import json
import struct
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import whisper_exports  # noqa: E402
import whisper_ggml  # noqa: E402
import whisper_peers  # noqa: E402
import whisper_search  # noqa: E402
import whisper_tiny  # noqa: E402
from whisper_peers import Heard  # noqa: E402

SIZES = {"d_model": 8, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_source_positions": 4}
DEPTH = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = WhisperConfig(
        **SIZES, **DEPTH, **whisper_tiny.SPECIAL, vocab_size=whisper_tiny.ENGLISH_VOCABULARY, max_target_positions=9
    )
    made = WhisperForConditionalGeneration(config).half().eval()
    for each in made.parameters():
        each.data = torch.randn_like(each)
    return made


def packed(tensors, aliases) -> bytes:
    """A model.bin, as CTranslate2 writes it."""
    numbers = {dtype: number for number, dtype in whisper_tiny.DTYPES.items()}

    def string(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        data += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", numbers[value.dtype.type], value.nbytes) + value.tobytes()
    return data + struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases.items())


def as_ctranslate2(state) -> dict[str, np.ndarray]:
    """CTranslate2's names for the tensors of a model, with q, k and v in one."""
    found = {"encoder/num_heads": np.array(2, np.int16), "decoder/num_heads": np.array(2, np.int16)}
    back = {part: name for name, parts in whisper_tiny.PARTS.items() if isinstance(parts, str) for part in [parts]}
    for name, value in state.items():
        side, *parts, kind = name.removeprefix("model.").split(".")
        layer = f"layer_{parts[1]}/" if parts[:1] == ["layers"] else ""
        part = ".".join(parts[2:] if layer else parts)
        if part not in back or name == "proj_out.weight":
            continue
        norm, kinds = "layer_norm" in part, {"weight": "gamma", "bias": "beta"}
        kind = kinds[kind] if norm else "encodings" if part == "embed_positions" else kind
        found[f"{side}/{layer}{back[part]}/{kind}"] = value.numpy()
    for side, place, name, block in joined_blocks():
        parts = whisper_tiny.PARTS[name]
        base = f"model.{side}.layers.{place}."
        for kind in ("weight", "bias"):
            zeros = torch.zeros(8, dtype=torch.float16)
            values = [state.get(f"{base}{part}.{kind}", zeros) for part in parts]
            found[f"{side}/layer_{place}/{block}/{kind}"] = torch.cat(values).numpy()
    return found


def joined_blocks():
    for side, layers in (("encoder", 1), ("decoder", 2)):
        for place in range(layers):
            names = [name for name, parts in whisper_tiny.PARTS.items() if isinstance(parts, tuple)]
            yield from ((side, place, name, name) for name in names if side == "decoder" or "self" in name)


@pytest.fixture
def folder(model, tmp_path):
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    (tmp_path / "model.bin").write_bytes(packed(as_ctranslate2(model.state_dict()), aliases))
    settings = {"suppress_ids": [1], "suppress_ids_begin": [220], "alignment_heads": [[0, 0]]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


def test_every_tensor_gets_its_name_back_bit_by_bit(model, folder):
    tensors = whisper_tiny.read_tensors(folder / "model.bin")
    state = dict(whisper_tiny.renamed(tensors))
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(state[name], value.numpy(), err_msg=name)


def test_the_sizes_are_those_of_the_tensors(model, folder):
    found = whisper_tiny.configuration(whisper_tiny.read_tensors(folder / "model.bin"), {"suppress_ids_begin": [220]})
    for key in (*SIZES, *DEPTH, "vocab_size", "max_target_positions", "num_mel_bins"):
        assert getattr(found, key) == getattr(model.config, key), key


def test_a_file_cut_short_is_refused(folder):
    file = folder / "model.bin"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(SystemExit, match="cut short"):
        whisper_tiny.read_tensors(file)


def test_the_step_written_out_is_the_models_own(model):
    whole = model.float()
    states, tokens = torch.randn(2, 4, 8), torch.randint(0, 1000, (2, 5))
    with torch.inference_mode():
        expected = whole(encoder_outputs=(states,), decoder_input_ids=tokens).logits
        step, cross = whisper_exports.Step(whole), whisper_exports.Cross(whole)(states)
        first, kept = step(tokens[:, :3], cross, [torch.zeros(2, 2, 0, 4)] * 4)
        second, _ = step(tokens[:, 3:], cross, kept)
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=1e-4, atol=1e-4)
    model.half()


def markov(table):
    """A model whose next token depends on the last alone."""
    return lambda tokens, rows: np.log(table[tokens[:, -1]])


def test_beams_find_what_greedy_misses():
    end = 3
    table = np.array(  # from 0: 1 is likelier than 2, but what follows 2 is certain
        [[0.0, 0.6, 0.4, 0.0], [0.35, 0.35, 0.0, 0.3], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    )
    settings = Namespace(eos_token_id=end, max_length=8, suppress_tokens=[], begin_suppress_tokens=[])
    with np.errstate(divide="ignore", invalid="ignore"):
        greedy = whisper_search.search(markov(table + 1e-9), [0], settings, 1)
        beams = whisper_search.search(markov(table + 1e-9), [0], settings, 2)
    assert greedy[0] == 1
    assert beams == [2]


def test_blocks_of_whisper_cpp_are_within_half_a_step():
    value = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    data = np.frombuffer(whisper_ggml.blocks(value), [("scale", "<f2"), ("codes", "i1", whisper_ggml.BLOCK)])
    back = data["codes"] * data["scale"].astype(np.float32)[:, None]
    assert len(data) == 6
    error = np.abs(back.ravel() - value.ravel()).reshape(-1, whisper_ggml.BLOCK)
    assert (error <= 0.6 * data["scale"].astype(np.float32)[:, None]).all()


def test_ratios_are_of_the_same_utterance():
    answers = {
        ("torch-fp32", 1): [[Heard("a", 4.0, 4.0), Heard("b", 1.0, 1.0)]],
        ("x", 1): [[Heard("a", 2.0, 2.0), Heard("c c c c c c c c c c c c c c c c c c c c", 1.0, 1.0)]],
    }
    slow, fast = whisper_peers.summaries(answers, ["a", "b"])
    assert slow["wer"] == 0
    assert fast["looping"] == 1
    assert fast["speedup"] == {"torch-fp32": (1.25, 1.5, 1.75)}
    assert fast["seconds"] == 1.5
