"""Widths that are learned: their bytes, and that what matters gets more of them."""

import pytest
import tiny
import torch

from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint import weights_hash
from stablequant.quantization.plan.plan import Plan
from stablequant.quantization.search.choices import Choices
from stablequant.quantization.search.forward_pass import CalibrationUtterance, Passages
from stablequant.quantization.search.session import sites_of
from stablequant.quantization.training.distillation_data import Lessons
from stablequant.quantization.training.end_to_end import Progress
from stablequant.quantization.training.quantizers.mixture import PREFERRED, likely
from stablequant.quantization.training.settings import TuneSettings
from stablequant.quantization.training.student import Student
from stablequant.quantization.training.width_search import WidthSearch, candidates


class Bar:
    def update(self, *_):
        pass


def utterance(number):
    return CalibrationUtterance(str(number), lambda: tiny.wave(number), None, 16000)


@pytest.fixture
def made(tmp_path):
    """(search, plan, choices) of a tiny model that has 3 bits everywhere."""
    teacher = tiny.recognizer(tmp_path=tmp_path)
    chosen, weights = tiny.max_plan(teacher.model, (3, 8))
    plan = Plan("w3a8", "mse", dict(chosen), {}, {"name": "logits", "unit": "", "threshold": 0.25}, {})
    choices = Choices(sites_of(teacher), {}, CalibrateOptions("m", "d", "o", avg_bits=4.0, group_size=32))
    passages = Passages(teacher)
    recordings = [utterance(number) for number in range(4)]
    mixed = candidates(teacher, plan, weights, choices, map(passages.of, recordings), tmp_path)
    lessons = Lessons(passages, recordings, 0)
    student = Student(teacher, chosen, mixed)
    limit = 1.25 * sum(choice.weight.bytes for choice in chosen.values())
    search = WidthSearch(student, lessons, lessons, TuneSettings(), "distill", Progress(), limit=limit)
    return search, plan, choices


def test_every_width_is_a_candidate(made):
    search, plan, _ = made
    assert set(search.mixed) == set(plan.quantized())
    for name, each in search.mixed.items():
        assert each.widths == (8, 4, 3, 2)
        weight = search.student.teacher.model.get_submodule(name).weight.detach().flatten(1)
        errors = [float((each.chosen(bits).dequantize() - weight).square().mean()) for bits in each.widths]
        assert errors[0] < errors[1] < errors[3], name


def test_the_expected_bytes_are_those_allowed(made):
    search, _, _ = made
    search.limit *= 0.7
    expected = float((likely(search.values, search.bytes, search._price()) * search.bytes).sum())
    assert expected == pytest.approx(search.limit, rel=1e-4)
    search.limit = 1e12
    assert search._price() == 0.0


def test_the_widths_that_are_kept_take_the_bytes_that_are_allowed(made):
    search, plan, choices = made
    before = weights_hash(search.student.teacher.model)
    records = []
    assert search.train(lambda step: step / 12, records.append, Bar())
    assert records[-1]["step"] == 12
    assert (search.values.abs().sum(1) != PREFERRED).any(), "something was learned"
    found, weights = search.result(plan, choices)
    assert sum(choice.weight.bytes for choice in found.quantized().values()) <= search.limit
    assert found.scheme == f"w{found.average_bits():.2f}a8"
    for name, choice in found.quantized().items():
        assert weights[name].format == choice.weight.format
        assert choice.weight.rounding == "trained"
        stored = weights[name].format.store(weights[name], weights[name].codes.shape)
        assert weights[name].format.problem(stored, weights[name].codes.shape) is None
    assert weights_hash(search.student.teacher.model) == before


def test_a_width_whose_share_lowers_the_loss_gains_value(made):
    """A site whose weights at 2 and 3 bits are spoilt must end with more than those."""
    search, _, _ = made
    name = next(name for name in search.mixed if name.endswith("lm_head"))
    with torch.no_grad():
        for one in search.mixed[name].of[2:]:
            one.first_codes.zero_()
    assert search.train(lambda step: step / 30, lambda _: None, Bar())
    assert search.widths()[name] > 3
