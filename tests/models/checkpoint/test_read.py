import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from stablequant import evaluate
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint import read
from stablequant.models.families import wav2vec2
from stablequant.models.tasks import ctc_words
from stablequant.models.tasks.base import PLAIN, Decoding
from stablequant.speech import audio
from stablequant.workflows.calibrate import calibrate
from stablequant.workflows.transcribe import transcribe_files

every_model = pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)


USAGE = {  # by a file of settings alone
    "language for CTC": ("wav2vec2", "base", None, Decoding("de"), "not for CTC models; leave them out"),
    "beams for CTC": ("wav2vec2", "base", None, Decoding(beams=5), "not for CTC models; leave them out"),
    "translation for CTC": ("wav2vec2", "base", None, Decoding(translate=True), "not for CTC models; leave them out"),
    "adapter for CTC": ("wav2vec2", "base", "deu", PLAIN, "has no language adapters; leave out --target-lang"),
    "adapter for Whisper": (
        "whisper",
        "multilingual",
        "deu",
        PLAIN,
        "has no language adapters; leave out --target-la",
    ),
    "language of English only": ("whisper", "english", None, Decoding("de"), "English only; leave out --language"),
    "task of English only": ("whisper", "english", None, Decoding(translate=True), "English only; leave out --task"),
    "no language": ("whisper", "multilingual", None, Decoding("klingon"), "no language 'klingon'; there are de, en"),
}


@pytest.mark.parametrize(("family", "form", "target_lang", "decoding", "message"), USAGE.values(), ids=USAGE)
def test_what_the_settings_rule_out_is_refused_before_the_weights_are_read(
    family, form, target_lang, decoding, message, tmp_path
):
    folder = tiny.save(tmp_path / "m", family, form)
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match="the weights cannot be loaded"):
        read.load(str(folder))
    with pytest.raises(InputError, match=message) as refusal:
        read.load(str(folder), target_lang, decoding)
    assert str(refusal.value).startswith(f"{folder}: ")


# ---- preparing changes no result


@every_model
def test_preparing_leaves_the_logits_as_they_were(family, form):
    x = torch.from_numpy(tiny.wave(0))[None]
    with torch.inference_mode():
        expected = tiny.build(family, form)(x).logits
        found = tiny.prepared(family, form)(x).logits
    assert tiny.relative(found, expected) <= 1e-5


@every_model
def test_preparing_leaves_no_weight_that_is_computed_and_may_be_done_twice(family, form):
    model = tiny.prepared(family, form)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    names = set(model.state_dict())
    wav2vec2.prepare(model)
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("form", ["base", "large"])
def test_wavlm_calls_its_projections_as_modules(form):
    model, called = tiny.prepared("wavlm", form), []
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "k_proj", "v_proj", "out_proj")):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.inference_mode():
        model(torch.from_numpy(tiny.wave(0))[None])
    assert len(called) == len(set(called)) == 2 * 4


# WavLM's own attention, the reference here, is called with masks in a way that torch is going to drop.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize(("family", "form"), [("wavlm", "base"), ("wavlm", "large"), ("wav2vec2", "large")])
def test_a_padded_batch_has_the_logits_of_transformers(family, form):
    x = torch.from_numpy(tiny.wave(0, 8000)).view(2, 4000).clone()
    x[1, 2500:] = 0
    mask = torch.ones(2, 4000, dtype=torch.long)
    mask[1, 2500:] = 0
    with torch.inference_mode():
        expected = tiny.build(family, form)(x, attention_mask=mask).logits
        found = tiny.prepared(family, form)(x, attention_mask=mask).logits
        unmasked = tiny.build(family, form)(x).logits
    frames = 7  # of the 2500 samples
    assert tiny.relative(found[0], expected[0]) <= 1e-5
    assert tiny.relative(found[1, :frames], expected[1, :frames]) <= 1e-5
    assert tiny.relative(unmasked[1, :frames], expected[1, :frames]) > 1e-4


def test_the_shortest_waveform_gives_one_frame(float_folder):
    recognizer = read.load(str(float_folder))
    assert recognizer.min_samples == 400
    assert tiny.logits(recognizer, tiny.wave(0, 400)).shape == (1, len(tiny.VOCABULARY))
    with pytest.raises(RuntimeError):
        tiny.logits(recognizer, tiny.wave(0, 399))


# ---- a loaded model


@every_model
def test_a_saved_model_gives_the_logits_of_the_one_in_memory(family, form, tmp_path):
    recognizer = read.load(str(tiny.save(tmp_path, family, form)))
    waveform = tiny.wave(0)
    with torch.inference_mode():
        expected = tiny.build(family, form)(recognizer.inputs(waveform)["input_values"]).logits[0]
    assert tiny.relative(tiny.logits(recognizer, waveform), expected) <= 1e-5
    assert recognizer.scheme == "float32"
    assert recognizer.sites["integer"] == 0
    assert not recognizer.model.training


def test_input_is_normalised_as_the_feature_extractor_says(float_folder):
    values = read.load(str(float_folder)).inputs(tiny.wave(0) + 1)["input_values"]
    assert values.shape == (1, 4000)
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std()) == pytest.approx(1, abs=1e-2)


def test_decoding_merges_repeats_and_drops_blanks(float_folder):
    recognizer = read.load(str(float_folder))
    symbols = [0, 5, 5, 0, 5, 4, 4, 6, 0]
    tokenizer = recognizer.processor.tokenizer
    assert ctc_words.decode(ctc_words.best(torch.eye(8)[symbols]), tokenizer) == "AA B"
    assert ctc_words.decode(ctc_words.best(torch.zeros(0, 8)), tokenizer) == ""


def test_transcribing_is_decoding_the_logits(float_folder):
    recognizer = read.load(str(float_folder))
    waveform = tiny.wave(0)
    assert recognizer.transcribe(waveform) == ctc_words.decode(
        ctc_words.best(tiny.logits(recognizer, waveform)), recognizer.processor.tokenizer
    )


def test_bytes_are_those_of_the_files_that_loading_reads(float_folder, tmp_path):
    recognizer = read.load(str(float_folder))
    files = [p for p in float_folder.iterdir() if p.suffix in {".json", ".safetensors"}]
    assert recognizer.bytes_on_disk == sum(path.stat().st_size for path in files)
    folder = shutil.copytree(float_folder, tmp_path / "copy")
    (folder / "README.md").write_text("x" * 1000)
    (folder / "optimizer.pt").write_text("x" * 1000)
    (folder / "pytorch_model.bin").write_text("x" * 1000)  # a second format of the same weights
    assert read.load(str(folder)).bytes_on_disk == recognizer.bytes_on_disk


# ---- what cannot be loaded, in one sentence


def refused(folder, *words):
    with pytest.raises(InputError) as error:
        read.load(str(folder))
    message = str(error.value)
    assert message.startswith(str(folder)), message
    assert "\n" not in message
    assert len(message) < 600
    for word in words:
        assert word in message
    return message


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not None}))
    return folder


def test_a_folder_without_a_config(tmp_path):
    refused(tmp_path, "no config.json here")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "model.bin").write_text("")
    refused(tmp_path / "model.bin", "a file; pass the folder of a Hugging Face model")


@pytest.mark.parametrize("content", ["", "{", "[]", "5", '"text"', "{}", "\x00"])
def test_a_config_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "many"},
        {"hidden_size": 33},
        {"conv_dim": [32]},
        {"conv_kernel": 5},
        {"num_attention_heads": 0},
        {"hidden_act": "nonsense"},
        {"vocab_size": -1},
    ],
    ids=str,
)
def test_a_config_with_impossible_values(folder, change):
    refused(edit_config(folder, **change))


def test_a_model_type_that_is_unknown(folder):
    refused(edit_config(folder, model_type="telepathy"), "telepathy")


def test_a_model_type_that_is_no_recogniser_of_the_family(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    refused(tmp_path, "model type 'bert' is not supported; supported are wav2vec2, hubert")


@pytest.mark.parametrize("kind", ["Wav2Vec2Model", "Wav2Vec2ForPreTraining"])
def test_a_model_without_a_ctc_head(folder, kind):
    changes = {"codevector_dim": 32, "proj_codevector_dim": 32, "num_codevectors_per_group": 8}
    getattr(transformers, kind)(tiny.config("wav2vec2", "base", **changes)).save_pretrained(folder)
    refused(folder, f"{kind} does not transcribe")
    # A config that does not say which model it is of: the file does.
    refused(edit_config(folder, architectures=None), "lm_head", "the model is not complete")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_weights_that_are_cut_short(folder, share):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(folder, "weights cannot be loaded")


def test_weights_that_are_not_there(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no model.safetensors or pytorch_model.bin here")


@pytest.mark.parametrize("key", ["lm_head.bias", "wav2vec2.encoder.layers.1.attention.q_proj.weight"])
def test_weights_that_miss_a_key(folder, key):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != key}, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "lm_head" if "lm_head" in key else key, "missing")


def test_weights_of_another_shape(folder):
    refused(edit_config(folder, intermediate_size=64), "weights")


def test_a_processor_that_is_not_there(folder):
    for name in ("vocab.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    refused(folder, "no usable feature extractor and tokenizer in the folder")


@pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
def test_stride_is_the_samples_from_frame_to_frame(family, form, tmp_path):
    recognizer = tiny.recognizer(family, form, tmp_path=tmp_path)
    stride = recognizer.geometry.stride
    frames = [len(tiny.logits(recognizer, tiny.wave(0, 4000 + more * stride))) for more in (0, 1, 5)]
    assert [frames[1] - frames[0], frames[2] - frames[0]] == [1, 5]


@pytest.mark.parametrize("name", ["vocab.json"])
def test_a_tokenizer_that_is_not_there_or_damaged(folder, name):
    (folder / name).write_text("{")
    refused(folder, "tokenizer")
    (folder / name).unlink()
    refused(folder, "tokenizer")


def test_a_model_that_another_tool_quantized(folder):
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, "quantized by 'gptq', which stablequant cannot read")


def test_a_hub_id_that_cannot_be_reached_is_one_sentence(tmp_path):
    """In a process of its own, since huggingface_hub reads its settings once."""
    code = "import sys; from stablequant.models.checkpoint import read\ntry: read.load('nobody/nothing-at-all')\n"
    code += "except read.InputError as error: print(error)"
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | settings,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("nobody/nothing-at-all: ")


def test_two_loads_give_the_same_logits(float_folder):
    first, second = (tiny.logits(read.load(str(float_folder)), tiny.wave(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert np.isfinite(first.numpy()).all()


# ---- folders as training left them


@pytest.mark.parametrize(
    "changes",
    [{"return_dict": False}, {"output_attentions": True}, {"output_hidden_states": True}],
    ids=str,
)
def test_settings_of_training_change_no_answer(folder, float_folder, speech, tmp_path, changes):
    edit_config(folder, **changes)
    assert torch.equal(
        tiny.logits(read.load(str(folder)), tiny.wave(0)), tiny.logits(read.load(str(float_folder)), tiny.wave(0))
    )
    calibrate(CalibrateOptions(str(folder), str(speech), str(tmp_path / "q"), method="max"))
    assert read.load(str(tmp_path / "q")).transcribe(tiny.wave(0)) is not None


def test_a_form_of_attention_that_is_not_installed_here(folder):
    edit_config(folder, attn_implementation="flash_attention_2")
    read.load(str(folder))


def test_an_output_that_is_not_finite_is_no_answer(folder, speech):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    recognizer = read.load(str(folder))
    [(path, answer)] = transcribe_files(recognizer, [str(speech / "0.wav")])
    assert str(answer).startswith(f"{path}: the model's output is NaN or infinite")
    with pytest.raises(InputError, match=r"0\.wav: the model's output is NaN or infinite"):
        evaluate(model=str(folder), data=str(speech))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 9}, "lm_head.bias has shape (8,) in the file and (9,) by config.json"),
        ({"conv_dim": [16] * 7}, "in the file and"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_named(folder, changes, words):
    refused(edit_config(folder, **changes), words, "config.json")


def test_a_feature_extractor_that_is_not_there(folder):
    (folder / "processor_config.json").unlink()
    refused(folder, "no preprocessor_config.json")


def test_base_960h(tmp_path, speech, shell):
    """The form of facebook/wav2vec2-base-960h, in small: no mask embedding, old names, two formats of weights.

    calibrate, eval, transcribe and pipeline work, and the size counts one of the two.
    """
    folder = tiny.save(tmp_path / "base", mask_time_prob=0.05)
    old = {"original0": "weight_g", "original1": "weight_v"}
    weights = {}
    for name, each in load_file(folder / "model.safetensors").items():
        base, _, last = name.rpartition(".parametrizations.weight.")
        weights[f"{base}.{old[last]}" if base else name] = each
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    torch.save(weights, folder / "pytorch_model.bin")
    extractor = json.loads((folder / "processor_config.json").read_text())["feature_extractor"]
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    settings = {**tokens, "do_lower_case": False, "word_delimiter_token": "|", "return_attention_mask": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "do_normalize": True}))
    read = ("config", "preprocessor_config", "special_tokens_map", "tokenizer_config", "vocab")
    size = sum((folder / name).stat().st_size for name in ("model.safetensors", *(f"{each}.json" for each in read)))

    out, result = tmp_path / "w8a8", tmp_path / "r.json"
    done = shell("calibrate", folder, "--data", speech, "--out", out, "--json", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "c.json").read_text())["bytes_before"] == size
    done = shell("eval", out, "--data", speech, "--baseline", folder, "--json", result)
    assert done.returncode == 0, done.stderr
    assert json.loads(result.read_text())["baseline"]["bytes_on_disk"] == size
    words = shell("transcribe", out, speech / "0.wav").stdout
    answer = transformers.pipeline("automatic-speech-recognition", str(out))(
        {"raw": audio.load(audio.whole_file(speech / "0.wav"), tiny.RATE), "sampling_rate": tiny.RATE}
    )
    assert words == f"{speech / '0.wav'}\t{' '.join(answer['text'].split())}\n"
