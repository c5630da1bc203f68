"""One blank, one delimiter, one language: what several files say of them, and who is believed."""

import json
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    pipeline,
)

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import read
from stablequant.models.tasks import ctc_words
from stablequant.models.tasks.base import text_of

LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")
LANGUAGES = {"eng": (*LETTERS[:5], *"ABC"), "deu": (*LETTERS[:5], *"ABÄÖÜ")}


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, ensure_ascii=False))


def tokenized(folder, symbols, **options):
    """The folder with another vocabulary."""
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.json").write_text(json.dumps({each: place for place, each in enumerate(symbols)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **options)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def refused(folder, *words, **options):
    with pytest.raises(InputError) as error:
        read.load(str(folder), **options)
    assert str(error.value).startswith(str(folder))
    for word in words:
        assert word in str(error.value)


# ---- the blank


def permuted(folder, order):
    """The same model with its symbols in another order: symbol order[i] becomes the i-th."""
    weights = load_file(folder / "model.safetensors")
    weights |= {name: each[list(order)].contiguous() for name, each in weights.items() if name.startswith("lm_head")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return tokenized(folder, [LETTERS[place] for place in order])


def test_the_tokenizers_blank_is_everybodys(folder, tmp_path):
    """The blank last, and config.json says first: text, words, score and what is written go by the tokenizer."""
    plain = read.load(str(tiny.save(tmp_path / "plain")))
    other = read.load(str(permuted(folder, (*range(1, 8), 0))))
    blanks = [each.processor.tokenizer.pad_token_id for each in (other, plain)]
    assert (other.model.config.pad_token_id, *blanks) == (7, 7, 0)
    [remark] = other.remarks
    assert (
        "the tokenizer's blank is 7 ('<pad>'), which is used, but pad_token_id in config.json is 0 ('<s>')" in remark
    )
    assert plain.remarks == ()
    waveform = tiny.wave(0)
    assert other.transcribe(waveform) == plain.transcribe(waveform)
    parts = []
    for each in (plain, other):
        answer = each.answer(each.inputs(waveform))
        parts.append(each.task.divergence(answer, torch.zeros_like(answer.logits)))
    assert parts[0] == pytest.approx(parts[1], rel=1e-5)


def test_a_blank_that_the_head_cannot_write(folder):
    tokenized(folder, ("[PAD]", *LETTERS[1:]))
    refused(folder, "pad_token '<pad>'", "has number 8", "0 to 7")


def test_a_vocabulary_of_another_model(folder):
    refused(tokenized(folder, (*LETTERS, "D", "E")), "D, E in the vocabulary are outside the head")


def test_special_symbols_beyond_the_head_are_usual(folder):
    tokenized(folder, (*LETTERS[:1], *LETTERS[3:]), unk_token="<unk>")  # <s> and </s> are added behind
    weights = load_file(folder / "model.safetensors")
    weights |= {name: each[:6].contiguous() for name, each in weights.items() if name.startswith("lm_head")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", vocab_size=6)
    assert read.load(str(folder)).remarks == ()


def test_symbols_that_nobody_names(folder):
    [remark] = read.load(str(tokenized(folder, LETTERS[:7]))).remarks
    assert "the head writes 8 symbols, but the tokenizer names only 7" in remark
    assert "<unk>" in remark


def test_two_symbols_of_one_number(folder):
    edit(folder / "vocab.json", B=5)
    refused(folder, "'A' and 'B' are both 5")


# ---- the delimiter


@pytest.mark.parametrize("delimiter", ["|", " ", "_", "▁", "<space>"])
def test_text_and_words_have_the_folders_delimiter(folder, delimiter):
    tokenized(folder, (*LETTERS[:4], delimiter, *"ABC"), word_delimiter_token=delimiter)
    recognizer = read.load(str(folder))
    path = np.array([5, 6, 4, 0, 4, 7, 4])
    assert ctc_words.decode(path, recognizer.processor.tokenizer) == "AB C"
    words = ctc_words.words(path, ctc_words.alphabet(recognizer.processor.tokenizer))
    assert [(each.word, each.first, each.end) for each in words] == [("AB", 0, 2), ("C", 5, 6)]


VOCABULARIES = {
    "letters": (LETTERS, {}),
    "spaced": ((*LETTERS[:5], " ONE", " TWO", "S"), {}),
    "characters": ((*LETTERS[:4], *"你好吗哦"), {"word_delimiter_token": None}),
    "underscore": ((*LETTERS[:4], "_", *"ABC"), {"word_delimiter_token": "_"}),
    "tidied": ((*LETTERS[:5], "n't", "'s", "."), {"clean_up_tokenization_spaces": True}),
    "joined": (LETTERS, {"replace_word_delimiter_char": ""}),
    "lower": (LETTERS, {"do_lower_case": True}),
}


@pytest.mark.parametrize(("symbols", "options"), VOCABULARIES.values(), ids=VOCABULARIES)
def test_words_are_those_of_the_text(symbols, options, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({each: place for place, each in enumerate(symbols)}))
    letters = ctc_words.alphabet(Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), **options))

    @given(st.lists(st.integers(0, len(symbols) - 1), max_size=30))
    def holds(path):
        words = ctc_words.words(np.array(path, int), letters)
        assert text_of(words) == ctc_words.decode(np.array(path, int), letters.tokenizer)
        assert all(0 <= each.first < each.end <= len(path) for each in words)
        assert all(a.first <= b.first for a, b in pairwise(words))

    holds()


# ---- the feature extractor


def test_two_files_of_the_feature_extractor(folder):
    nested = json.loads((folder / "processor_config.json").read_text())["feature_extractor"]
    (folder / "preprocessor_config.json").write_text(
        json.dumps(nested | {"do_normalize": False, "sampling_rate": 8000})
    )
    recognizer = read.load(str(folder))
    assert recognizer.sampling_rate == 16000
    [remark] = recognizer.remarks
    assert "preprocessor_config.json and processor_config.json differ in do_normalize and sampling_rate" in remark


def test_a_feature_extractor_of_another_family(folder):
    settings = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000, "feature_size": 80}
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    refused(folder, "WhisperFeatureExtractor returns input_features")


# ---- languages


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """The form of MMS: a nested vocabulary, and for each language an adapter with a head of its own."""
    folder = tmp_path_factory.mktemp("mms")
    for language in ("deu", "eng"):  # the weights in the file are those of the last
        changes = {"adapter_attn_dim": 16, "vocab_size": len(LANGUAGES[language])}
        model = Wav2Vec2ForCTC(tiny.config("wav2vec2", "large", **changes)).eval()
        for parameter in model._get_adapters().values():
            torch.nn.init.normal_(parameter, std=0.3)
        adapters = {name: each.detach().contiguous() for name, each in model._get_adapters().items()}
        save_file(adapters, folder / f"adapter.{language}.safetensors", {"format": "pt"})
    model.save_pretrained(folder)
    nested = {language: {each: place for place, each in enumerate(symbols)} for language, symbols in LANGUAGES.items()}
    (folder / "vocab.json").write_text(json.dumps(nested, ensure_ascii=False))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang="eng")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("language", ["eng", "deu"])
def test_a_language_gives_what_transformers_gives(multilingual, language):
    recognizer = read.load(str(multilingual), language)
    expected = Wav2Vec2ForCTC.from_pretrained(multilingual, ignore_mismatched_sizes=True).eval()
    expected.load_adapter(language)
    with torch.inference_mode():
        logits = expected(recognizer.inputs(tiny.wave(0))["input_values"]).logits[0]
    assert tiny.relative(tiny.logits(recognizer, tiny.wave(0)), logits) <= 1e-5
    assert (recognizer.target_lang, recognizer.remarks[0]) == (
        language,
        f"{multilingual}: recognises the language {language}; --target-lang selects another of its 2",
    )


def test_without_a_choice_it_is_the_tokenizers(multilingual):
    assert read.load(str(multilingual)).target_lang == "eng"


def test_a_language_that_is_not_there(multilingual):
    refused(multilingual, "no language 'fra'", "deu, eng", target_lang="fra")


def test_a_model_of_one_language(folder):
    refused(folder, "has no language adapters", target_lang="deu")


def test_a_folder_for_one_language(multilingual, speech, tmp_path, shell):
    """calibrate, eval and transcribe for German; transformers' own pipeline reads the result."""
    out, data = tmp_path / "deu", ("--data", speech, "--target-lang", "deu")
    done = shell("calibrate", multilingual, *data, "--out", out, "--json", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    assert "recognises the language deu" in done.stderr
    assert json.loads((tmp_path / "c.json").read_text())["target_lang"] == "deu"
    assert "deu" in (out / "README.md").read_text()
    assert "Ä" in json.loads((out / "vocab.json").read_text())
    done = shell("eval", out, *data, "--baseline", multilingual, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["model"]["target_lang"] == result["baseline"]["target_lang"] == "deu"
    words = shell("transcribe", out, speech / "0.wav")
    assert shell("transcribe", out, speech / "0.wav", "--target-lang", "deu").stdout == words.stdout
    refusal = shell("transcribe", out, speech / "0.wav", "--target-lang", "eng")
    assert refusal.returncode == 3
    assert "is only for the language deu" in refusal.stderr
    answer = pipeline("automatic-speech-recognition", str(out))({"raw": tiny.wave(0), "sampling_rate": tiny.RATE})
    assert " ".join(answer["text"].split()) == words.stdout.rstrip("\n").partition("\t")[2]


# ---- what changes the meaning of a folder


def test_an_adapter_in_the_folder_of_its_base_model(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    refused(folder, "contains a PEFT adapter", "merge_and_unload")


@pytest.mark.parametrize("sign", ["files", "class", "arpa"])
def test_a_language_model_is_named_and_not_inherited(folder, sign, speech, tmp_path, shell):
    if sign == "files":
        (folder / "language_model").mkdir()
        (folder / "alphabet.json").write_text("{}")
    elif sign == "class":
        edit(folder / "processor_config.json", processor_class="Wav2Vec2ProcessorWithLM")
    else:
        (folder / "4gram.arpa").write_text("")
    [remark] = read.load(str(folder)).remarks
    assert "has a language model" in remark
    if sign != "class":
        return
    out = tmp_path / "out"
    done = shell("calibrate", folder, "--data", speech, "--out", out, "--method", "max", "--json", tmp_path / "c")
    assert remark in done.stderr
    assert json.loads((tmp_path / "c").read_text())["remarks"] == [remark]
    assert "language model" in (out / "README.md").read_text()
    assert type(AutoProcessor.from_pretrained(out)) is Wav2Vec2Processor
    assert AutoModelForCTC.from_pretrained(out) is not None
    assert remark in shell("transcribe", folder, speech / "0.wav").stderr


@pytest.mark.parametrize("kind", sorted(tiny.CLASSES))
def test_a_folder_that_names_no_tokenizer_class(kind, tmp_path):
    folder = tiny.save(tmp_path, kind)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if "class" not in k}))
    assert ctc_words.decode(np.array([5, 4, 6]), read.load(str(folder)).processor.tokenizer) == "A B"
