import json
import shutil

import pytest
from report.examples import evaluated
from safetensors.torch import load_file

from stablequant.evaluation import result
from stablequant.foundation.errors import InputError
from stablequant.report import inputs


@pytest.mark.parametrize("baseline", [True, False])
def test_an_evaluation_is_told_as_the_terminal_tells_it(tmp_path, baseline):
    (tmp_path / "result.json").write_text(evaluated(baseline).to_json())
    found = inputs.evaluation(str(tmp_path / "result.json"))
    assert found["normalize"] == "basic"
    assert found["rows"][3] == ["WER %", "2.00 [1.00, 3.00]", *(["1.50 [1.00, 3.00]"] if baseline else [])]
    table = result.table(evaluated(baseline))
    assert all(line in table for line in found["lines"])
    assert ("FAILED: min_speedup 3, found 2 (m)" in found["lines"]) == baseline


def test_an_evaluation_of_an_earlier_version(tmp_path):
    """Without what was added since: that is shown as not known."""
    data = json.loads(evaluated().to_json())
    for part, names in {
        "model": ("deletions_percent", "insertions_percent", "looping", "rare_recall_percent", "rare_recall_ci95"),
        "delta": ("more_looping", "rare_recall_points", "rare_recall_ci95"),
        "data": ("rare_words",),
    }.items():
        for name in names:
            del data[part][name]
    (tmp_path / "result.json").write_text(json.dumps(data))
    rows = {name: cells for name, *cells in inputs.evaluation(str(tmp_path / "result.json"))["rows"]}
    assert rows["looping outputs"] == ["-", "-"]
    assert rows["rare words, points"] == ["-", ""]


def test_an_evaluation_of_other_models_is_refused(tmp_path):
    data = json.loads(evaluated(True).to_json())
    several = [{**data["model"], "path": path, "delta": None, "gates": []} for path in ("w8", "w4")]
    (tmp_path / "result.json").write_text(json.dumps({**data, "models": several}))
    assert inputs.evaluation(str(tmp_path / "result.json"), "./w4/")
    with pytest.raises(InputError, match=r"result\.json: is about w8, w4, not w3; pass that model's file"):
        inputs.evaluation(str(tmp_path / "result.json"), "w3")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2}', "[" * 100_000]
    + [
        json.dumps(json.loads(evaluated().to_json()) | change)
        for change in ({"model": {}}, {"gates": 3}, {"normalize": "all"}, {"data": None})
    ],
)
def test_another_json_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json: not a file that `sfm-quant eval --json` writes") as error:
        inputs.evaluation(str(tmp_path / "x.json"))
    assert "\n" not in str(error.value)


def test_rows_of_predictions(tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "text": "A", "pred_text": "B", "baseline_pred_text": "A", "duration": 1.5},
        {"text": "", "pred_text": "", "speaker": 7, "loudness_dbfs": None},
    ]
    (tmp_path / "said.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    first, second = inputs.predictions(str(tmp_path / "said.jsonl"))
    assert (first.name, first.reference, first.hypotheses, first.seconds) == ("a.wav", "A", ("A", "B"), 1.5)
    assert (second.speaker, second.loudness, second.seconds, second.hypotheses) == ("7", None, None, ("",))


def test_of_several_models_the_answers_of_the_folder_are_taken(tmp_path):
    row = {"text": "A", "model": "w8", "pred_text": "B", "model_2": "w4", "pred_text_2": "C", "baseline_model": "m"}
    path = tmp_path / "said.jsonl"
    path.write_text(json.dumps(row))
    for folder, heard in (("w8", "B"), ("./w4/", "C"), (None, "B")):
        (found,) = inputs.predictions(str(path), folder)
        assert found.heard == heard
    with pytest.raises(InputError, match=r"said\.jsonl:1: is about w8, w4, not w3; pass that model's file"):
        inputs.predictions(str(path), "w3")
    path.write_text(json.dumps({"text": "A", "model": "w8", "pred_text": "B"}))
    (alone,) = inputs.predictions(str(path), "moved")
    assert alone.heard == "B"


def test_only_a_newline_ends_a_row(tmp_path):
    (tmp_path / "said.jsonl").write_text('{"text": "A\u2028\x85B", "pred_text": ""}\r\n', newline="")
    (row,) = inputs.predictions(str(tmp_path / "said.jsonl"))
    assert row.reference == "A\u2028\x85B"


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"text": "A"}', '{"text": "A", "pred_text": "A", "duration": "x"}'])
def test_a_row_that_is_none_is_named_with_its_line(tmp_path, line):
    (tmp_path / "said.jsonl").write_text('{"text": "A", "pred_text": "A"}\n' + line)
    with pytest.raises(InputError, match=r"said\.jsonl:2: not a row of `sfm-quant eval --predictions`"):
        inputs.predictions(str(tmp_path / "said.jsonl"))


@pytest.mark.parametrize("field", ["text", "pred_text", "baseline_pred_text"])
def test_a_transcript_that_is_no_string(tmp_path, field):
    (tmp_path / "said.jsonl").write_text(json.dumps({"text": "A", "pred_text": "A", field: 3}))
    with pytest.raises(InputError, match=r"said\.jsonl:1: a transcript is 3, not a string; correct the row"):
        inputs.predictions(str(tmp_path / "said.jsonl"))


def test_files_of_something_else(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="empty: contains no predictions"):
        inputs.predictions(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="binary: not UTF-8 text"):
        inputs.predictions(str(tmp_path / "binary"))
    with pytest.raises(InputError, match="nothing: no such file; pass what"):
        inputs.evaluation(str(tmp_path / "nothing"))


def test_bytes_by_layer_add_up_to_the_file(calibrated, tmp_path):
    layers = ["wav2vec2.feature_extractor.conv_layers.1", "lm_head"]
    sizes = inputs.layer_bytes(calibrated[0], layers)
    tensors = load_file(calibrated[0] / "model.safetensors")
    assert list(sizes) == [*layers, inputs.OTHERS]
    assert sizes["lm_head"] == sum(t.nbytes for name, t in tensors.items() if name.startswith("lm_head."))
    assert sum(sizes.values()) == sum(tensor.nbytes for tensor in tensors.values())
    assert inputs.layer_bytes(tmp_path, layers) == {}
    shutil.copy(calibrated[0] / "config.json", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read .*; copy the model again"):
        inputs.layer_bytes(tmp_path, layers)
