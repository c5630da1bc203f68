"""The files of a model: which of them loading reads, and what stands in their way."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stablequant.foundation.errors import InputError
from stablequant.models import source
from stablequant.models.checkpoint import read


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path / "model")


def binary(folder):
    """The same weights in torch's format."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shards(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(weights.items())[place::2]) for place in range(2)]
    places = {}
    for number, half in enumerate(halves, start=1):
        name = f"model-{number:05}-of-00002.safetensors"
        save_file(half, folder / name, {"format": "pt"})
        places |= dict.fromkeys(half, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def renamed(folder):
    """config.json names the file."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "transformers_weights": "weights.safetensors"}))


FORMS = {
    "safetensors": (lambda _: None, {"model.safetensors"}),
    "bin": (binary, {"pytorch_model.bin"}),
    "shards": (
        shards,
        {"model.safetensors.index.json", *(f"model-{number:05}-of-00002.safetensors" for number in (1, 2))},
    ),
    "renamed": (renamed, {"weights.safetensors"}),
}
BESIDE = ("optimizer.safetensors", "adapter.deu.safetensors", "training_args.bin", "trainer_state.json", "README.md")


@pytest.mark.parametrize(("make", "names"), FORMS.values(), ids=FORMS)
def test_the_weights_are_those_that_transformers_opens(folder, make, names, monkeypatch):
    """Whatever lies beside them: an optimizer, adapters, states of a trainer, another format of the same weights."""
    make(folder)
    for name in BESIDE:
        (folder / name).write_bytes(b"{}" + bytes(10_000_000 // len(BESIDE)))
    if "pytorch_model.bin" not in names:
        (folder / "pytorch_model.bin").write_bytes(bytes(1000))
    opened = set()
    spy = lambda path, *more, **options: opened.add(str(path)) or safe_open(path, *more, **options)  # noqa: E731
    load = torch.load
    monkeypatch.setattr("transformers.modeling_utils.safe_open", spy)
    monkeypatch.setattr(
        torch, "load", lambda path, *more, **options: opened.add(str(path)) or load(path, *more, **options)
    )
    recognizer = read.load(str(folder))
    assert {Path(path).name for path in opened} == {name for name in names if not name.endswith(".index.json")}
    settings = {"config.json", "processor_config.json", "tokenizer_config.json", "vocab.json"}
    assert recognizer.bytes_on_disk == sum((folder / name).stat().st_size for name in names | settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_count_in_float32_whatever_the_file_has(folder, dtype):
    whole = read.load(str(folder))
    weights = load_file(folder / "model.safetensors")
    save_file({name: each.to(dtype) for name, each in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    half = read.load(str(folder))
    assert half.float32_bytes == whole.float32_bytes == 4 * sum(each.numel() for each in weights.values())
    assert half.bytes_on_disk < 0.6 * whole.bytes_on_disk


def refused(path, *words):
    with pytest.raises(InputError) as error:
        read.load(str(path))
    message = str(error.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    for word in words:
        assert word in message, message


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 377604000\n")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json"])
def test_a_pointer_of_git_lfs(folder, name):
    pointer(folder / name)
    refused(folder, name, "git lfs pull")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_byte_order_mark(folder, name):
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    refused(folder, name, "byte order mark")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_that_leads_nowhere(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to("../blobs/0123")
    refused(folder, name, "a link to a missing file", "cp -L")


def test_a_folder_above_the_model(tmp_path):
    tiny.save(tmp_path / "checkpoint-500")
    refused(tmp_path, "no config.json here", f"use {tmp_path / 'checkpoint-500'}")


def test_an_adapter_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(tmp_path, "PEFT adapter", "merge")


@pytest.mark.parametrize(("name", "word"), [("tf_model.h5", "from_tf"), ("model.nemo", "NeMo"), ("a.onnx", "ONNX")])
def test_weights_of_another_toolkit(folder, name, word):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, "no model.safetensors or pytorch_model.bin", name, word)


def test_code_in_a_pickle_is_not_run(folder):
    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "run"),))

    binary(folder)
    torch.save({"lm_head.weight": Code()}, folder / "pytorch_model.bin")
    refused(folder, "contains more than tensors", "save_pretrained")
    assert not (folder / "run").exists()


def test_an_index_beside_the_weights_that_nobody_reads(folder):
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"lm_head.weight": "gone.bin"}}')
    read.load(str(folder))


def test_the_type_of_a_model_is_known_before_its_weights(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "gpt2"}))
    (folder / "model.safetensors").unlink()
    refused(folder, "model type 'gpt2' is not supported")


def test_folder_bytes_are_those_of_a_loaded_model(folder):
    shutil.copy(folder / "model.safetensors", folder / "best.safetensors")
    assert source.folder_bytes(folder) == read.load(str(folder)).bytes_on_disk
