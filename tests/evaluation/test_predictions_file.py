"""What is written is what is read; what else a row may be is in report/test_inputs.py."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablequant.evaluation.predictions_file import ModelAnswer, Prediction, read, to_jsonl
from stablequant.foundation.errors import InputError

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
seconds = st.none() | st.floats(0, 1e6, allow_subnormal=False)
answers = st.builds(ModelAnswer, texts, texts, seconds)
predictions = st.builds(
    Prediction,
    audio_filepath=texts,
    offset=st.floats(0, 1e6),
    duration=seconds,
    loudness_dbfs=seconds,
    text=texts,
    speaker=st.none() | texts,
    answers=st.lists(answers, min_size=1, max_size=4).map(tuple),
    baseline=st.none() | answers,
)


@given(st.lists(predictions, min_size=1, max_size=3))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "said.jsonl"
    path.write_text(to_jsonl(rows), encoding="utf-8")
    assert list(read(str(path))) == [(f"{path}:{number}", row) for number, row in enumerate(rows, 1)]


def test_the_fields_of_a_row():
    three = tuple(ModelAnswer(name, name.upper(), 0.5) for name in "abc")
    row = json.loads(to_jsonl([Prediction("x.wav", 0.0, 1.5, None, "SAID", None, three, ModelAnswer("f", "F", None))]))
    assert row == {
        **{"audio_filepath": "x.wav", "offset": 0.0, "duration": 1.5, "loudness_dbfs": None, "text": "SAID"},
        **{"model": "a", "pred_text": "A", "time": 0.5, "compression_ratio": 0.111},
        **{"model_2": "b", "pred_text_2": "B", "time_2": 0.5, "compression_ratio_2": 0.111},
        **{"model_3": "c", "pred_text_3": "C", "time_3": 0.5, "compression_ratio_3": 0.111},
        **{
            "baseline_model": "f",
            "baseline_pred_text": "F",
            "baseline_time": None,
            "baseline_compression_ratio": 0.111,
        },
    }


def test_text_that_repeats_itself_is_told_by_its_ratio():
    answer = ModelAnswer("a", "so " * 100, 0.5)
    row = json.loads(to_jsonl([Prediction("x.wav", 0.0, 1.5, None, "SO", None, (answer,))]))
    assert row["compression_ratio"] > 10


def test_the_line_of_a_row_counts_blank_ones(tmp_path):
    path = tmp_path / "said.jsonl"
    path.write_text('\n\n{"text": "A", "pred_text": "B"}\n\n{"text": "A"}')
    rows = read(str(path))
    assert next(rows)[0] == f"{path}:3"
    with pytest.raises(InputError, match=r"said\.jsonl:5: not a row of .*'pred_text'"):
        next(rows)
