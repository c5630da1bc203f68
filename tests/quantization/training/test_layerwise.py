"""What a layer is trained on."""

import tiny
import torch

from stablequant.quantization.search.forward_pass import CalibrationUtterance, Passages
from stablequant.quantization.training.distillation_data import Lessons
from stablequant.quantization.training.layerwise import LayerTraining
from stablequant.quantization.training.settings import TuneSettings
from stablequant.quantization.training.student import Student


def training(tmp_path, recordings=4, **changes):
    teacher = tiny.recognizer(tmp_path=tmp_path)
    student = Student(teacher, *tiny.max_plan(teacher.model, (3, 8)))
    lessons = Lessons(Passages(teacher), [utterance(number) for number in range(recordings)], 0)
    return student, LayerTraining(student, lessons, TuneSettings(**changes), tmp_path)


def utterance(number):
    return CalibrationUtterance(str(number), lambda: tiny.wave(number), None, 16000)


def test_a_layer_that_is_a_site_learns_from_inputs_that_are_not_quantized_yet(tmp_path):
    student, made = training(tmp_path)
    assert "lm_head" in made.layers
    for layer in made.layers[:-1]:
        made._examples(layer)
    examples = made._examples("lm_head")
    with torch.no_grad():
        codes = student.sites["lm_head"].input(examples[0].args[0])
    assert not torch.equal(codes, examples[0].args[0]), "on the grid nothing would change"


def test_examples_stay_within_memory(tmp_path):
    _, made = training(tmp_path)
    assert len(made._examples(made.layers[0])) == 4
    (tmp_path / "small").mkdir()
    _, small = training(tmp_path / "small", layer_bytes=1000)
    assert len(small._examples(small.layers[0])) == 2
