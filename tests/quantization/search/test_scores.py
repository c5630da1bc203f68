from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from stablequant.engines.simulation import simulate
from stablequant.models.families.sites import find_sites
from stablequant.models.tasks import ctc_words
from stablequant.quantization.plan.site import layers_of
from stablequant.quantization.search.forward_pass import CalibrationUtterance, Passage, Passages
from stablequant.quantization.search.scores import SCORES, Trial, run_trials, total

WAVE = tiny.wave(3)


def recording(text=None):
    return CalibrationUtterance("noise", lambda: WAVE, text)


def part(name, reference, logits, text=None, recognizer=None):
    """The part of a score that a model with some logits (frames, vocabulary) has before one with others."""
    before, after = (
        replace(recognizer, model=lambda each=each: SimpleNamespace(logits=each[None])) for each in (reference, logits)
    )
    return SCORES[name].measure(after, recording(text), Passage({}, None, 0), before.answer({}))


def measure(*arguments, **options):
    return total([part(*arguments, **options)])


def frames(recognizer, text):
    """Logits that decode to a text: a frame for each symbol, with a blank between two that are the same."""
    symbols = []
    for symbol in text.replace(" ", "|"):
        symbols += ["<pad>", symbol] if symbols and symbols[-1] == symbol else [symbol]
    logits = torch.zeros(len(symbols), len(tiny.VOCABULARY))
    for row, symbol in zip(logits, symbols, strict=True):
        row[tiny.VOCABULARY.index(symbol)] = 9.0
    assert ctc_words.decode(ctc_words.best(logits), recognizer.processor.tokenizer) == text
    return logits


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    return tiny.recognizer(tmp_path=tmp_path_factory.mktemp("processor"))


def test_a_model_that_is_the_same_loses_nothing(recognizer):
    logits = torch.randn(20, 8)
    assert measure("logits", logits, logits, recognizer=recognizer) == 0.0
    assert measure("wer", logits, logits, "A B", recognizer) == 0.0


def test_every_frame_that_changes_counts_over_the_symbols_written(recognizer):
    blank, others = tiny.VOCABULARY.index("<pad>"), torch.tensor([5, 5, 0, 0, 5, 6, 0])  # "AAB": three symbols
    assert blank == 0
    certain = torch.full((7, 8), -1e4).scatter(1, others[:, None], 0.0)
    elsewhere = certain.roll(1, 1)
    assert measure("logits", certain, elsewhere, recognizer=recognizer) == pytest.approx(100 * 7 / 3)
    silent = torch.full((5, 8), -1e4).index_fill(1, torch.tensor([0]), 0.0)
    assert measure("logits", silent, silent.roll(1, 1), recognizer=recognizer) == pytest.approx(500)


def test_total_variation_is_half_the_absolute_difference(recognizer):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(8), 9), rng.dirichlet(np.ones(8), 9)
    for one, other in ((p, q), (q, p)):
        written = (
            1
            + np.count_nonzero(np.diff(one.argmax(1)))
            - np.count_nonzero((one.argmax(1) == 0) & np.diff(one.argmax(1), prepend=-1).astype(bool))
        )
        expected = 100 * np.maximum(one - other, 0).sum() / written
        assert measure("logits", torch.tensor(one).log(), torch.tensor(other).log(), recognizer=recognizer) == (
            pytest.approx(expected)
        )


def test_recordings_count_by_what_is_written_in_them():
    assert total([(1.0, 10.0), (0.0, 30.0)]) == 2.5


@pytest.mark.parametrize(
    ("text", "before", "after", "points"),
    [
        ("A B C A", "A B C A", "A B B A", 25.0),  # one word of four substituted
        ("A B C A", "A B B A", "A B C A", -25.0),  # one gained
        ("A B", "A B", "", 100.0),
        ("A B", "C", "A B C", -50.0),  # 2 errors (a substitution and a deletion) before, 1 insertion after
    ],
)
def test_word_errors_are_those_that_the_quantized_model_makes_more(recognizer, text, before, after, points):
    logits = [frames(recognizer, words) if words else torch.eye(8)[[0, 0]] for words in (before, after)]
    assert measure("wer", *logits, text, recognizer) == pytest.approx(points)


def test_every_word_heard_in_silence_is_an_insertion(recognizer):
    assert part("wer", torch.eye(8)[[0]], frames(recognizer, "A B"), "", recognizer) == (2.0, 0.0)


@pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
def test_reusing_the_prefix_gives_the_logits_of_computing_all(family, form, tmp_path):
    recognizer = tiny.recognizer(family, form, tmp_path=tmp_path)
    model = recognizer.model
    choices, weights = tiny.max_plan(model, waves=[WAVE])
    layers = layers_of(find_sites(model))
    seen = []
    keep = lambda each, _, passage, answer: (seen.append(each.logits(passage.inputs, passage.forced)), 1.0)  # noqa: E731
    score = SCORES["logits"].__class__("kept", "", keep)
    trials = []
    for layer in layers[1:]:
        mine = {name: choice for name, choice in choices.items() if choice.layer == layer}
        trials.append(Trial(layer, layer, mine, {name: weights[name] for name in mine}))
    trials.append(Trial("all", layers[0], choices, weights))
    heard = []
    run_trials(Passages(recognizer), layers, recording(), trials, score, heard.append)
    assert heard == [trial.key for trial in trials]
    with torch.inference_mode():
        inputs = recognizer.inputs(WAVE)["input_values"]
        for trial, logits in zip(trials, seen, strict=True):
            with simulate(model, trial.choices, trial.weights):
                assert torch.equal(model(inputs).logits[0], logits), trial.key
    assert all(not module._forward_hooks and "forward" not in module.__dict__ for module in model.modules())


def test_what_comes_before_the_first_quantized_layer_is_not_computed_again(recognizer):
    model, calls = recognizer.model, []
    choices, weights = tiny.max_plan(model, waves=[WAVE])
    layers = layers_of(find_sites(model))
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d)
    ]
    head = Trial("head", "lm_head", {"lm_head": choices["lm_head"]}, {"lm_head": weights["lm_head"]})
    run_trials(Passages(recognizer), layers, recording(), [head, head], SCORES["logits"], lambda key: None)
    for handle in handles:
        handle.remove()
    once = len(handles)
    assert calls[once:] == ["lm_head", "lm_head"]
    assert len(set(calls[:once])) == once


def test_a_trial_that_fails_leaves_the_model_as_it_was(recognizer):
    def fail(*_):
        raise KeyboardInterrupt

    score = SCORES["logits"].__class__("broken", "", fail)
    with pytest.raises(KeyboardInterrupt):
        run_trials(
            Passages(recognizer), ["lm_head"], recording(), [Trial("t", "lm_head", {}, {})], score, lambda key: None
        )
    modules = list(recognizer.model.modules())
    assert all(not m._forward_hooks and not m._forward_pre_hooks and "forward" not in m.__dict__ for m in modules)
