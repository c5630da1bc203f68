"""What a tiny Whisper writes: what transformers' `generate` writes, token by token."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from stablequant.foundation.errors import InputError
from stablequant.models.tasks import decoding, repetition, seq2seq, whisper_tokens
from stablequant.models.tasks.base import PLAIN, Decoding, Network

END = tiny.TOKENS["<|endoftext|>"]
SEEDS = range(8)
FORMS = ("english", "multilingual")
every_form = pytest.mark.parametrize("form", FORMS)
# Decoding, and the same as `generate` of transformers takes it.
CASES = {
    "english": ("english", PLAIN, {}),
    "detected": ("multilingual", PLAIN, {"task": "transcribe"}),
    "80 mels": ("80 mels", PLAIN, {"task": "transcribe"}),
    "language": ("multilingual", Decoding("de"), {"task": "transcribe", "language": "de"}),
    "language in words": ("multilingual", Decoding("German"), {"task": "transcribe", "language": "de"}),
    "translate": ("multilingual", Decoding("en", translate=True), {"task": "translate", "language": "en"}),
}
every_case = pytest.mark.parametrize(("form", "decoding", "options"), CASES.values(), ids=CASES)


def recognizer(form, decoding, tmp_path):
    return tiny.recognizer("whisper", form, tmp_path=tmp_path, decoding=decoding)


def written(found, seeds=SEEDS):
    return [each.tokens for each in found.recognise([tiny.wave(seed, tiny.RATE) for seed in seeds])]


@torch.inference_mode()
def generated(found, options, seeds=SEEDS):
    """The tokens that transformers writes for each recording, without prompt and end."""
    texts = []
    for seed in seeds:
        ids = found.model.generate(**found.inputs(tiny.wave(seed, tiny.RATE)), return_timestamps=False, **options)[0]
        texts.append(tuple(token for token in ids.tolist() if token != END and token not in prompts(found)))
    return texts


def prompts(found):
    """Tokens that only prompts have: no model may write them."""
    return {tiny.TOKENS[token] for token in tiny.SPECIAL[1:10]}


@every_case
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_texts_are_those_of_transformers(form, decoding, options, beams, tmp_path):
    found = recognizer(form, replace(decoding, beams=beams), tmp_path)
    texts = written(found)
    assert texts == generated(found, {**options, "num_beams": beams})
    assert len(set(texts)) > 3


@every_form
def test_texts_are_of_all_lengths(form, tmp_path):
    """What the other tests rely on: some end at once, and some are the longest."""
    lengths = [len(each) for each in written(recognizer(form, PLAIN, tmp_path))]
    assert min(lengths) <= 2
    assert max(lengths) == tiny.WHISPER["max_target_positions"] - (2 if form == "english" else 4)


@every_form
def test_a_shorter_text_may_be_asked_for(form, tmp_path):
    found = recognizer(form, PLAIN, tmp_path)
    full = written(found)
    found.model.generation_config.max_length = 10
    prompt = 2 if form == "english" else 4
    assert written(found) == [each[: 10 - prompt] for each in full]


def test_a_detected_language_is_the_most_likely(tmp_path):
    """As transformers detects it; a model that would rather start with something else has to choose one too."""
    found = recognizer("multilingual", PLAIN, tmp_path)
    with torch.no_grad():
        table = found.model.model.decoder.embed_tokens.weight
        for name in ("<|en|>", "<|de|>"):
            table[tiny.TOKENS[name]] *= 20
    languages = []
    for seed in range(12):
        inputs = found.inputs(tiny.wave(seed, tiny.RATE))
        [expected] = found.model.detect_language(**inputs, generation_config=found.model.generation_config).tolist()
        languages.append(int(found.forced(inputs).ids[0, 1]))
        assert languages[-1] == expected
    assert set(languages) <= {tiny.TOKENS["<|en|>"], tiny.TOKENS["<|de|>"]}


@every_form
def test_suppressed_tokens_are_not_written(form, tmp_path):
    found = recognizer(form, PLAIN, tmp_path)
    usual = {token for each in written(found) for token in each}
    first = {each[0] for each in written(found) if each}
    settings = found.model.generation_config
    never = sorted(usual)[:2]
    settings.suppress_tokens = sorted({*settings.suppress_tokens, *never})
    settings.begin_suppress_tokens = sorted({*settings.begin_suppress_tokens, *first})
    texts = written(found)
    assert not {token for each in texts for token in each} & set(never)
    assert not {each[0] for each in texts} & first
    assert texts == generated(found, {} if form == "english" else {"task": "transcribe"})


# ---- generation_config.json


def test_without_generation_config_the_tokens_are_those_of_the_tokenizer(tmp_path):
    """Nothing is suppressed then, but prompt and end are known; so few symbols are a model of English only."""
    found = recognizer("english", PLAIN, tmp_path)
    found.model.generation_config = GenerationConfig()
    settings = tiny.generation_config(False)
    settings.suppress_tokens = settings.begin_suppress_tokens = None
    expected = recognizer("english", PLAIN, tmp_path)
    expected.model.generation_config = settings
    found.model.generation_config.max_length = settings.max_length
    assert written(found) == written(expected)
    assert len(set(written(found))) > 1


@pytest.mark.parametrize("field", ["lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id"])
def test_a_field_that_is_missing_is_looked_up_in_the_tokenizer(field, tmp_path):
    found = recognizer("multilingual", PLAIN, tmp_path)
    expected = written(found)
    delattr(found.model.generation_config, field)
    assert written(recognizer("multilingual", PLAIN, tmp_path)) == expected
    assert written(found) == expected


@pytest.mark.parametrize("field", ["suppress_tokens", "begin_suppress_tokens"])
@pytest.mark.parametrize("nothing", [None, []])
def test_no_suppressed_tokens(field, nothing, tmp_path):
    found = recognizer("multilingual", PLAIN, tmp_path)
    setattr(found.model.generation_config, field, nothing)
    assert written(found) == generated(found, {"task": "transcribe"})


@pytest.mark.parametrize("language", [None, "de"])
@pytest.mark.parametrize("beams", [1, 3])
def test_one_decoder_writes_a_text_and_detects_its_language(language, beams, tmp_path, monkeypatch):
    """What a decoder is started on costs: the keys and values of the encoder's states."""
    found, started = recognizer("multilingual", Decoding(language, beams=beams), tmp_path), []
    plain = seq2seq.decoding.decoder
    monkeypatch.setattr(seq2seq.decoding, "decoder", lambda *args: started.append(len(args[1])) or plain(*args))
    written(found)
    assert started == ([len(SEEDS)] if beams == 1 else [1] * len(SEEDS))
    started.clear()
    found.forced(found.inputs(tiny.wave(0, tiny.RATE)))
    assert started == [1]


# ---- a text that repeats itself


@pytest.fixture
def strict(monkeypatch):
    """Half of the texts of the tiny model count as loops."""
    monkeypatch.setattr(repetition, "THRESHOLD", 0.6)


def heard(found, seeds=SEEDS):
    return found.recognise([tiny.wave(seed, tiny.RATE) for seed in seeds])


def test_a_text_that_repeats_itself_is_sampled(strict, tmp_path):
    plain = heard(recognizer("english", PLAIN, tmp_path))
    again = heard(recognizer("english", Decoding(fallback=True), tmp_path))
    looping = [repetition.loops(each.text) for each in plain]
    assert 1 < sum(looping) < len(SEEDS)
    for loop, before, after in zip(looping, plain, again, strict=True):
        assert before.temperature == 0
        assert (after.temperature in seq2seq.TEMPERATURES) == loop
        assert loop or after.text == before.text
    last = max(n for n, each in enumerate(again) if each.temperature)
    [alone] = heard(recognizer("english", Decoding(fallback=True), tmp_path), SEEDS[last : last + 1])
    assert alone.tokens == again[last].tokens, "it does not depend on what else is recognised"


@pytest.mark.parametrize(
    ("lengths", "expected"), [((9, 1, 1, 1, 1), 0.4), ((9, 9, 9, 9, 1), 1.0), ((9, 8, 7, 8, 9), 0.6)], ids=str
)
def test_the_first_temperature_that_helps_is_used_or_the_best(lengths, expected, tmp_path, monkeypatch):
    found, letter = recognizer("english", Decoding(fallback=True), tmp_path), tiny.TOKENS["E"]
    of = dict(zip(seq2seq.TEMPERATURES, lengths, strict=True))
    monkeypatch.setattr(repetition, "compression_ratio", lambda text: len(text.strip()))
    monkeypatch.setattr(seq2seq, "compression_ratio", lambda text: len(text.strip()))
    monkeypatch.setattr(decoding, "greedy", lambda begun, _: [[letter] * 20 for _ in begun.prompts])
    monkeypatch.setattr(
        decoding, "sample", lambda _b, _f, temperature, *_: [[letter] * 30, [letter] * of[temperature]]
    )
    [spoken] = heard(found, [0])
    assert (spoken.temperature, spoken.text) == (expected, "E" * of[expected])


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_samples_are_drawn_from_the_posteriors(temperature, tmp_path):
    """At a low temperature nearly always the best token; at 1 the first tokens are as frequent as they are likely."""
    found = recognizer("english", PLAIN, tmp_path)
    inputs = found.inputs(tiny.wave(0, tiny.RATE))
    tokens = seq2seq.whisper_tokens.tokens(found.network)
    with torch.inference_mode():
        states = seq2seq._encoded(found.model, inputs)
        begin = lambda: seq2seq._begun(found.network, states, tokens)  # noqa: E731
        begun = begin()
        logits = decoding._allowed(begun.running.step(begun.prompts), tokens, first=True)[0]
        likely = (logits / temperature).softmax(-1)
        short = replace(tokens, longest=begun.prompts.shape[1] + 1)
        drawn = [
            decoding.sample(begin(), short, temperature, 1, torch.Generator().manual_seed(seed))[0]
            for seed in range(200)
        ]
    best = int(likely.argmax())
    share = sum(each == [best] for each in drawn) / 200
    assert share == pytest.approx(float(likely[best]), abs=0.12)


def test_samples_are_sorted_and_hopeless_ones_end_early(tmp_path, monkeypatch):
    found = recognizer("english", PLAIN, tmp_path)
    tokens = seq2seq.whisper_tokens.tokens(found.network)
    monkeypatch.setattr(decoding, "CHECKED", 6)
    with torch.inference_mode():
        states = seq2seq._encoded(found.model, found.inputs(tiny.wave(1, tiny.RATE)))
        draw = lambda hopeless: decoding.sample(  # noqa: E731
            seq2seq._begun(found.network, states, tokens), tokens, 1.0, 4, torch.Generator().manual_seed(3), hopeless
        )
        whole, cut = draw(lambda _tokens: False), draw(lambda tokens: True)
    assert len(whole) == len(cut) == 4
    assert max(map(len, whole)) > 6
    assert max(map(len, cut)) == 6
    prompt = seq2seq._begun(found.network, states, tokens).prompts

    def likely(text):
        ids = torch.tensor([[*prompt[0].tolist(), *text]])
        with torch.inference_mode():
            encoded = BaseModelOutput(last_hidden_state=states)
            logits = found.model(encoder_outputs=encoded, decoder_input_ids=ids).logits[0, prompt.shape[1] - 1 :]
        logits = logits.clone()
        written = [*text, END][: tokens.longest - prompt.shape[1]]
        allowed = torch.stack([decoding._allowed(row[None], tokens, first=n == 0)[0] for n, row in enumerate(logits)])
        return float(sum(allowed[n].log_softmax(-1)[token] for n, token in enumerate(written))) / len(written)

    scores = [likely(text) for text in whole]
    assert scores == sorted(scores, reverse=True)


# ---- what cannot be


def refused(found, message):
    with pytest.raises(InputError, match=message):
        list(seq2seq.check("m", found.network))


def test_a_language_for_a_model_of_english_only(tmp_path):
    refused(recognizer("english", Decoding("de"), tmp_path), "^m: the model recognises English only; leave out --lang")
    refused(recognizer("english", Decoding(translate=True), tmp_path), "English only; leave out --task")


@pytest.mark.parametrize("language", ["fr", "klingon", ""])
def test_a_language_that_the_model_does_not_have(language, tmp_path):
    refused(recognizer("multilingual", Decoding(language), tmp_path), "no language '.*'; there are de, en")


@pytest.mark.parametrize("token", ["<|startoftranscript|>", "<|notimestamps|>", "<|transcribe|>"])
def test_a_tokenizer_of_another_model(token, tmp_path):
    found = recognizer("multilingual", PLAIN, tmp_path)
    tokenizer = copy.deepcopy(found.processor.tokenizer)
    plain = tokenizer.convert_tokens_to_ids

    class Other:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __len__(self):
            return len(tokenizer)

        def convert_tokens_to_ids(self, asked):
            return END if asked == token else plain(asked)

    with pytest.raises(InputError, match="copy the tokenizer that belongs to the model"):
        list(seq2seq.check("m", Network(found.model, Other(), 0.02)))


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path):
    found = recognizer("multilingual", PLAIN, tmp_path)
    found.processor.tokenizer.add_tokens(["more"])
    refused(found, f"the tokenizer has {len(tiny.TOKENS) + 1} tokens, the model {len(tiny.TOKENS)}")


# ---- what changed models are compared on


@every_form
@pytest.mark.parametrize("seed", SEEDS)
def test_forced_tokens_are_the_prompt_and_what_is_written(form, seed, tmp_path):
    found = recognizer(form, PLAIN, tmp_path)
    inputs = found.inputs(tiny.wave(seed, tiny.RATE))
    forced = found.forced(inputs)
    [tokens] = written(found, [seed])
    assert forced.prompt == (2 if form == "english" else 4)
    assert forced.ids.shape == (1, forced.prompt + len(tokens))
    assert tuple(forced.ids[0, forced.prompt :].tolist()) == tokens
    logits = found.logits(inputs, forced)
    assert logits.shape == (len(tokens) + 1, len(tiny.TOKENS)), "each token, and the end"
    answer = found.answer(inputs, forced)
    assert answer.written == len(tokens) + 1
    assert answer.text == found.text(inputs)


@every_form
def test_the_logits_are_those_that_the_tokens_were_chosen_by(form, tmp_path):
    """Step by step with a cache, and all at once, the same but for rounding."""
    found = recognizer(form, PLAIN, tmp_path)
    settings = found.model.generation_config
    for seed in SEEDS:
        inputs = found.inputs(tiny.wave(seed, tiny.RATE))
        forced = found.forced(inputs)
        logits = found.logits(inputs, forced).clone()
        logits[:, settings.suppress_tokens] = -torch.inf
        logits[0, settings.begin_suppress_tokens] = -torch.inf
        best = logits.argmax(-1).tolist()
        assert best[:-1] == forced.ids[0, forced.prompt :].tolist()
        assert best[-1] == END or forced.ids.shape[1] == settings.max_length


def test_divergence_is_the_total_variation_over_tokens(tmp_path):
    found = recognizer("english", PLAIN, tmp_path)
    inputs = found.inputs(tiny.wave(1, tiny.RATE))
    forced = found.forced(inputs)
    answer = found.answer(inputs, forced)
    certain = torch.full_like(answer.logits, -1e4)
    one = certain.clone().index_fill(1, torch.tensor([3]), 0.0)
    other = certain.clone().index_fill(1, torch.tensor([4]), 0.0)
    half = one.clone()
    half[: len(half) // 2] = other[: len(half) // 2]
    assert seq2seq.divergence(replace(answer, logits=one), other) == pytest.approx((len(one), answer.written))
    assert seq2seq.divergence(replace(answer, logits=one), half)[0] == pytest.approx(len(one) // 2)


def test_without_tokens_to_follow_there_is_one_step(tmp_path):
    found = recognizer("multilingual", PLAIN, tmp_path)
    assert found.logits(found.inputs(tiny.wave(0))).shape == (1, len(tiny.TOKENS))


def test_bytes_write_everything(tmp_path):
    found = recognizer("english", PLAIN, tmp_path)
    assert seq2seq.unwritable(["Ä", "你好", "x"], found.processor.tokenizer) == []


def test_words_of_a_text_that_reaches_the_longest(tmp_path):
    recognizer = tiny.recognizer("whisper", "english", tmp_path=tmp_path)
    settings = recognizer.model.generation_config
    settings.suppress_tokens = [*(settings.suppress_tokens or ()), whisper_tokens.tokens(recognizer.network).end]
    [spoken] = recognizer.recognise([tiny.wave(0)])
    assert len(spoken.tokens) == recognizer.model.config.max_target_positions - spoken.prompt.shape[1]
    assert " ".join(word.word for word in spoken.words()) == spoken.text


def test_alignment_heads_of_another_model(tmp_path):
    recognizer = tiny.recognizer("whisper", "english", tmp_path=tmp_path)
    recognizer.model.generation_config.alignment_heads = [[7, 0]]
    [spoken] = recognizer.recognise([tiny.wave(1)])
    written = replace(spoken, tokens=tuple(recognizer.processor.tokenizer.encode("a b", add_special_tokens=False)))
    with pytest.raises(InputError, match="more layers or heads"):
        written.words()


@pytest.mark.parametrize("beams", [1, 2])
def test_damaged_decoder_weights_write_nothing(tmp_path, beams):
    recognizer = tiny.recognizer("whisper", "english", tmp_path=tmp_path)
    recognizer.model.model.decoder.layer_norm.weight.data[0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        replace(recognizer, decoding=Decoding(beams=beams)).recognise([tiny.wave(0)])


def test_numbers_outside_the_vocabulary_are_not_suppressed(tmp_path):
    recognizer = tiny.recognizer("whisper", "english", tmp_path=tmp_path)
    plain = recognizer.transcribe(tiny.wave(0))
    settings = recognizer.model.generation_config
    settings.suppress_tokens = [*(settings.suppress_tokens or ()), -1, 10**6]
    assert recognizer.transcribe(tiny.wave(0)) == plain


def test_language_and_task_of_the_generation_config_are_the_defaults(tmp_path):
    recognizer = tiny.recognizer("whisper", "multilingual", tmp_path=tmp_path)
    found = whisper_tokens.tokens(recognizer.network)
    settings = recognizer.model.generation_config
    settings.language, settings.task = "german", "translate"
    [spoken] = recognizer.recognise([tiny.wave(0)])
    assert spoken.prompt[0, 1:3].tolist() == [found.languages["de"], found.tasks["translate"]]
