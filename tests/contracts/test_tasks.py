"""What every task has to do, whichever file it is: models/tasks/base.py."""

from dataclasses import replace

import pytest
import tiny
import torch
import transformers

from stablequant.foundation import registry
from stablequant.models.tasks.base import task_of

EXAMPLES = {"ctc": ("wav2vec2", "base")}  # of each file, a tiny model of that task


@pytest.fixture(params=sorted(EXAMPLES))
def case(request, tmp_path):
    """(task, model, tokenizer, inputs, the answer)"""
    recognizer = tiny.recognizer(*EXAMPLES[request.param], tmp_path=tmp_path)
    task, inputs = registry.get("tasks", request.param), recognizer.inputs(tiny.wave(0))
    with torch.inference_mode():
        answer = task.answer(recognizer.model, recognizer.processor.tokenizer, inputs)
        yield task, recognizer.model, recognizer.processor.tokenizer, inputs, answer


def test_every_file_has_an_example():
    assert set(EXAMPLES) == set(registry.names("tasks"))


def test_a_model_does_not_diverge_from_itself(case):
    task, model, _, inputs, answer = case
    distance, written = task.divergence(answer, task.logits(model, inputs, answer))
    assert distance == 0
    assert written >= 1


def test_a_changed_model_diverges_the_more_it_changes(case):
    task, model, _, inputs, answer = case
    logits = task.logits(model, inputs, answer)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    distances = [task.divergence(answer, logits + amount * noise)[0] for amount in (0.1, 1.0, 10.0)]
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] <= len(logits)


def test_the_answer_is_what_the_model_writes_and_the_same_every_time(case):
    task, model, tokenizer, inputs, answer = case
    again = task.answer(model, tokenizer, inputs)
    assert torch.equal(again.logits, answer.logits)
    assert replace(again, logits=answer.logits) == replace(answer, logits=answer.logits)
    assert task.text(model, tokenizer, inputs) == answer.text


def test_classes_are_those_of_transformers(case):
    task, model, *_ = case
    assert hasattr(transformers, task.AUTO_CLASS)
    assert task_of([type(model).__name__]) is task
    assert task_of(["BertForMaskedLM"]) is None
    assert task.UNIT


def test_what_only_the_task_adds_is_known(case):
    task, model, *_ = case
    head = {name for name, _ in model.named_parameters()} - {
        f"{model.base_model_prefix}.{name}" for name, _ in model.base_model.named_parameters()
    }
    assert head
    assert all(task.missing_head(name) == (name in head) for name, _ in model.named_parameters())
