"""What every task has to do, whichever file it is: models/tasks/base.py."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
import transformers

from stablequant.foundation import registry
from stablequant.foundation.errors import InputError
from stablequant.models.tasks.base import PLAIN, Decoding, Network, task_of, text_of

EXAMPLES = {"ctc": ("wav2vec2", "base"), "seq2seq": ("whisper", "multilingual")}  # of each file, a tiny model


@pytest.fixture(params=sorted(EXAMPLES))
def case(request, tmp_path):
    """(task, recognizer, inputs, what is followed)"""
    recognizer = tiny.recognizer(*EXAMPLES[request.param], tmp_path=tmp_path)
    inputs = recognizer.inputs(tiny.wave(1))
    return registry.get("tasks", request.param), recognizer, inputs, recognizer.forced(inputs)


def test_every_file_has_an_example():
    assert set(EXAMPLES) == set(registry.names("tasks"))


def test_a_model_does_not_diverge_from_itself(case):
    task, recognizer, inputs, forced = case
    answer = recognizer.answer(inputs, forced)
    distance, written = task.divergence(answer, recognizer.logits(inputs, forced))
    assert distance == 0
    assert written == answer.written >= 1


def test_a_changed_model_diverges_the_more_it_changes(case):
    task, recognizer, inputs, forced = case
    answer = recognizer.answer(inputs, forced)
    noise = torch.randn(answer.logits.shape, generator=torch.Generator().manual_seed(0))
    distances = [task.divergence(answer, answer.logits + amount * noise)[0] for amount in (0.1, 1.0, 10.0)]
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] <= len(answer.logits)


def test_the_answer_is_what_the_model_writes_and_the_same_every_time(case):
    _, recognizer, inputs, forced = case
    answer, again = (recognizer.answer(inputs, forced) for _ in range(2))
    assert torch.equal(again.logits, answer.logits)
    assert replace(again, logits=answer.logits) == replace(answer, logits=answer.logits)
    assert recognizer.text(inputs) == answer.text != ""


def test_what_is_followed_is_the_same_every_time_and_none_without_a_decoder(case):
    _, recognizer, inputs, forced = case
    assert (forced is None) == (not recognizer.model.config.is_encoder_decoder)
    if forced is not None:
        again = recognizer.forced(inputs)
        assert torch.equal(again.ids, forced.ids)
        assert again.prompt == forced.prompt < forced.ids.shape[1]


def test_several_in_one_call_are_answered_as_each_alone(case):
    task, recognizer, *_ = case
    inputs = [recognizer.inputs(tiny.wave(seed)) for seed in range(6)]
    with torch.inference_mode():
        together = task.recognise(recognizer.network, inputs)
        alone = [spoken for each in inputs for spoken in task.recognise(recognizer.network, [each])]
        assert task.recognise(recognizer.network, []) == []
    assert [each.text for each in together] == [each.text for each in alone]
    assert len({each.text for each in together}) > 3


def test_words_joined_by_spaces_are_the_text_and_lie_one_after_another(case):
    _, recognizer, *_ = case
    [spoken] = recognizer.recognise([tiny.wave(1)])
    words = list(spoken.words())
    assert text_of(words) == " ".join(each.word for each in words) == spoken.text, "letters, which have spaces"
    times = [time for each in words for time in (each.start, each.end)]
    assert all(each.start < each.end for each in words)
    assert all(a.end <= b.start for a, b in pairwise(words))
    assert 0 <= min(times) <= max(times) <= 1.0


def test_output_that_is_not_finite_is_no_answer(case):
    _, recognizer, *_ = case
    with torch.no_grad():
        next(p for name, p in recognizer.model.named_parameters() if name.endswith("layer_norm.bias")).fill_(np.nan)
    with pytest.raises(InputError, match="NaN or infinite"):
        recognizer.recognise([tiny.wave(0)])


def test_only_a_decoder_has_layers_that_repeat(case):
    task, recognizer, *_ = case
    layers = {site.layer for site in recognizer.family.sites(recognizer.model)}
    assert {layer for layer in layers if task.repeats(layer)} == {layer for layer in layers if "decoder" in layer}


def test_a_model_of_its_own_is_checked_without_a_remark(case):
    task, recognizer, *_ = case
    assert list(task.check("m", recognizer.network)) == []


def test_choices_that_a_model_does_not_have_show_in_its_settings(case):
    """So that they are refused before the weights are read."""
    task, recognizer, *_ = case
    config, plain = recognizer.model.config, {}
    task.refuse(PLAIN, config, plain)
    for wanted in (Decoding("klingon"), Decoding(translate=True)):
        with pytest.raises(InputError, match="leave"):
            task.refuse(wanted, config, plain)
    if not config.is_encoder_decoder:
        with pytest.raises(InputError, match="--beam-size are for models like Whisper"):
            task.refuse(Decoding(beams=2), config, plain)


def test_a_tokenizer_with_more_symbols_than_the_model_is_refused(case):
    task, recognizer, *_ = case
    tokenizer = recognizer.processor.tokenizer
    tokenizer.add_tokens([f"more{n}" for n in range(8)])
    with pytest.raises(InputError, match=r"^m: "):
        list(task.check("m", Network(recognizer.model, tokenizer, 0.02)))


def test_classes_are_those_of_transformers(case):
    task, recognizer, *_ = case
    assert all(hasattr(transformers, name) for name in (task.AUTO_CLASS, task.TOKENIZER, task.PROCESSOR))
    assert type(recognizer.processor).__name__ == task.PROCESSOR
    assert task_of([type(recognizer.model).__name__], "ctc") is task
    assert task_of(["BertForMaskedLM"], "ctc") is None
    assert task.UNIT
    assert task.TAG


def test_what_only_the_task_adds_is_known(case):
    task, recognizer, *_ = case
    model = recognizer.model
    head = {name for name, _ in model.named_parameters()} - {
        f"{model.base_model_prefix}.{name}" for name, _ in model.base_model.named_parameters()
    }
    assert bool(head) == (not model.config.is_encoder_decoder), "a table of tokens is tied"
    assert all(task.missing_head(name) == (name in head) for name, _ in model.named_parameters())
