"""The student computes what is written: with simulation and integer kernels, as it starts and after it has changed."""

import pytest
import tiny
import torch

from stablequant.engines.simulation import simulate
from stablequant.models import checkpoint
from stablequant.quantization.training.settings import TuneSettings
from stablequant.quantization.training.student import Student

FAMILIES = (
    ("wav2vec2", "base"),
    ("wav2vec2", "large"),
    ("wavlm", "base"),
    ("data2vec-audio", "base"),
    ("whisper", "english"),
)


def changed(teacher, bits):
    """A student all of whose parts have moved from where they began."""
    choices, weights = tiny.max_plan(teacher.model, bits)
    made = Student(teacher, choices, weights)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, each in made.state():
            each.add_((0.4 if name.endswith("master.steps") else 0.02) * torch.randn_like(each))
    made.place()
    return made


@pytest.mark.parametrize(("family", "form"), FAMILIES, ids="-".join)
@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (2, 8)])
def test_what_trains_is_what_is_written(family, form, bits, tmp_path):
    teacher = tiny.recognizer(family, form, tmp_path=tmp_path)
    before = tiny.forward(teacher.model, tiny.wave(1))
    student = changed(teacher, bits)
    with torch.no_grad():
        found = tiny.forward(student.recognizer.model, tiny.wave(1))
    choices, weights = student.quantized()
    written = student.trained().model
    with torch.no_grad(), simulate(written, choices, weights):
        expected = tiny.forward(written, tiny.wave(1))
    assert torch.equal(found, expected)
    assert not torch.equal(found, before)
    assert torch.equal(tiny.forward(teacher.model, tiny.wave(1)), before), "the teacher is not touched"


def test_the_first_state_is_the_start(tmp_path):
    teacher = tiny.recognizer(tmp_path=tmp_path)
    choices, weights = tiny.max_plan(teacher.model, (3, 8))
    student = Student(teacher, choices, weights)
    with torch.no_grad(), simulate(teacher.model, choices, weights):
        expected = tiny.forward(teacher.model, tiny.wave(2))
    with torch.no_grad():
        assert torch.equal(tiny.forward(student.recognizer.model, tiny.wave(2)), expected)
    assert student.quantized()[0] == choices


def test_a_table_that_is_also_the_output_projection_stays_one(tmp_path):
    teacher = tiny.recognizer("whisper", "english", tmp_path=tmp_path)
    student = changed(teacher, (4, 8))
    model = student.recognizer.model
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    before = student.sites["proj_out"].weight.quantized().codes.clone()
    optimizer = student.optimizer(TuneSettings(), 0.5)
    tiny.forward(model, tiny.wave(0)).square().mean().backward()
    assert student.step(optimizer, 1.0)
    after = student.sites["proj_out"].weight.quantized()
    assert not torch.equal(after.codes, before)
    assert torch.equal(model.model.decoder.embed_tokens.weight, after.dequantize())


def test_a_snapshot_brings_everything_back(tmp_path):
    student = changed(tiny.recognizer(tmp_path=tmp_path), (4, 8))
    kept, model = student.snapshot(), student.recognizer.model
    with torch.no_grad():
        expected = tiny.forward(model, tiny.wave(0))
        for _, each in student.state():
            each.add_(torch.randn_like(each))
        student.place()
        assert not torch.equal(tiny.forward(model, tiny.wave(0)), expected)
        student.load(kept)
        assert torch.equal(tiny.forward(model, tiny.wave(0)), expected)


def test_the_written_model_has_the_trained_biases_and_norms(tmp_path):
    student = changed(tiny.recognizer(tmp_path=tmp_path), (4, 8))
    written = dict(student.trained().model.named_parameters())
    assert student.vectors
    for name, each in student.vectors.items():
        assert torch.equal(written[name], each)
    assert checkpoint.weights_hash(student.teacher.model) != checkpoint.weights_hash(student.trained().model)


@pytest.mark.parametrize(("family", "form"), [("wav2vec2", "base"), ("whisper", "english")], ids="-".join)
def test_sites_that_read_one_tensor_keep_one_range(family, form, tmp_path):
    teacher = tiny.recognizer(family, form, tmp_path=tmp_path)
    choices, _ = changed(teacher, (4, 8)).quantized()
    read = {}
    for site in teacher.family.sites(teacher.model):
        if site.reads and site.name in choices:
            read.setdefault(site.reads, []).append(choices[site.name].input)
    assert any(len(each) > 1 for each in read.values())
    assert all(each == [each[0]] * len(each) for each in read.values())
    before, _ = tiny.max_plan(teacher.model, (4, 8))
    assert any(choices[name].input != choice.input for name, choice in before.items())


def test_gradients_that_are_not_finite_change_nothing(tmp_path):
    student = changed(tiny.recognizer(tmp_path=tmp_path), (4, 8))
    before, optimizer = student.snapshot(), student.optimizer(TuneSettings(), 0.5)
    (tiny.forward(student.recognizer.model, tiny.wave(0)).square().mean() * float("inf")).backward()
    assert not student.step(optimizer, 1.0)
    assert all(torch.equal(before[name], each) for name, each in student.state())
    tiny.forward(student.recognizer.model, tiny.wave(0)).square().mean().backward()
    assert student.step(optimizer, 1.0), "nothing is left of it"
    assert any(not torch.equal(before[name], each) for name, each in student.state())


def test_it_can_start_with_other_biases_and_norms(tmp_path):
    first = changed(tiny.recognizer(tmp_path=tmp_path), (4, 8))
    choices, weights = first.quantized()
    again = Student(first.teacher, choices, weights, {name: each.detach() for name, each in first.vectors.items()})
    with torch.no_grad():
        found = tiny.forward(again.recognizer.model, tiny.wave(2))
        assert torch.allclose(found, tiny.forward(first.recognizer.model, tiny.wave(2)), atol=1e-5)
