import errno
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from stablequant.cli import main as cli
from stablequant.evaluation import peak_memory
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.speech import data_summary
from stablequant.workflows import evaluate

SFM_QUANT = Path(sys.executable).with_name("sfm-quant")


def sfm_quant(*arguments, **options):
    """The real command in a process of its own."""
    command = [SFM_QUANT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def invoke(*arguments):
    """The command in this process, where parts of it can be replaced."""
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A wav2vec 2.0 of two narrow layers that knows nothing, with its processor."""
    folder = tmp_path_factory.mktemp("model")
    convolutions = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    transformer = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=8, **convolutions, **transformer)).save_pretrained(folder)
    vocabulary = {symbol: place for place, symbol in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = []
    for name, seconds in (("a.wav", 0.5), ("b.flac", 0.3), ("short.wav", 0.01)):
        soundfile.write(folder / name, rng.uniform(-0.5, 0.5, round(16000 * seconds)), 16000)
        lines.append(json.dumps({"audio_filepath": name, "text": "A B"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


# ---- the real command


def test_eval_from_the_shell(model, data, tmp_path):
    files = {"--json": tmp_path / "result.json", "--predictions": tmp_path / "said.jsonl"}
    files["--junit"] = tmp_path / "result.xml"
    limits = ["--baseline", model, "--max-wer-increase", 0, "--min-compression", 3.5, "--threads", 1]
    done = sfm_quant("eval", model, "--data", data, *limits, *(part for pair in files.items() for part in pair))
    assert done.returncode == 1, done.stderr
    assert "FAILED: min_compression 3.5 times smaller than the baseline's files, found 1" in done.stdout
    assert "too short for the model" in done.stdout
    assert not {"Error", "Warning", "Traceback"} & set(done.stderr.replace(":", " ").split())  # but progress
    result = json.loads(files["--json"].read_text())
    assert [gate["passed"] for gate in result["gates"]] == [True, False]
    assert result["model"]["peak_rss_bytes"] > 50e6
    assert result["environment"]["threads"] == 1
    assert len(files["--predictions"].read_text().splitlines()) == 3
    suite = ElementTree.parse(files["--junit"]).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["result.json", "result.xml", "said.jsonl"], "nothing is left beside"


def test_eval_of_several_models_on_github_with_bad_entries(model, data, shell):
    lines = (data / "manifest.jsonl").read_text() + '\n{"audio_filepath": "gone.wav", "text": "A"}'
    more = ["--baseline", model, "--min-compression", 2, "--skip-bad", "--json", "-"]
    settings = {"input": lines, "cwd": data, "env": {"GITHUB_ACTIONS": "true"}}
    done = shell("eval", model, model, "--data", "-", *more, **settings)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert (len(found["models"]), found["data"]["skipped_bad"]) == (2, 1)
    log = [line for line in done.stderr.splitlines() if line.startswith("::")]
    limit = "min_compression 2 times smaller than the baseline's files"
    failed = f"::error title=sfm-quant eval::FAILED: {limit}, found 1 ({model})"
    assert log[:2] == [failed] * 2
    assert log[2].startswith("::warning title=sfm-quant eval::left out: standard input:4: no recording gone.wav")


def test_calibrate_skips_what_is_bad(model, data, tmp_path, shell):
    (tmp_path / "cut.wav").write_bytes((data / "a.wav").read_bytes()[:30])
    listed = [data / "a.wav", tmp_path / "cut.wav", *(tmp_path / f"gone{n}.wav" for n in range(9))]
    lines = "\n".join(json.dumps({"audio_filepath": str(path)}) for path in listed)
    command = ["calibrate", model, "--data", "-", "--out", tmp_path / "q", "--method", "max", "--json", "-"]
    refused = shell(*command, input=lines)
    assert refused.returncode == 3
    sentence, other = refused.stderr.splitlines()
    assert other.startswith(f"{tmp_path}/cut.wav: cannot be decoded")
    assert sentence.startswith(f"Error: standard input:3: no recording {tmp_path}/gone0.wav; ")
    assert sentence.endswith("(9 similar entries: standard input:3, standard input:4, standard input:5, ...)")
    done = shell(*command, "--skip-bad", input=lines)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped_bad"] == 10
    warnings = [line for line in done.stderr.splitlines() if line.startswith("Warning: left out: ")]
    assert len(warnings) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell):
    done = sfm_quant(env=os.environ | {"_SFM_QUANT_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0, done.stderr
    assert "_SFM_QUANT_COMPLETE" in done.stdout


def test_completion_of_a_model_is_a_path():
    typed = {"COMP_WORDS": "sfm-quant eval calib", "COMP_CWORD": "2", "_SFM_QUANT_COMPLETE": "bash_complete"}
    assert sfm_quant(env=os.environ | typed).stdout == "file,calib\n"


def test_transcribe_from_the_shell(model, data):
    done = sfm_quant("transcribe", model, data / "a.wav", data / "nothing.wav", data / "short.wav")
    assert done.returncode == 3
    first, second = done.stdout.splitlines()  # what cannot be read keeps nothing from being answered
    assert first.startswith(f"{data / 'a.wav'}\t")
    assert second == f"{data / 'short.wav'}\t"
    reason, warning, summary = done.stderr.splitlines()
    assert reason == f"Error: {data / 'nothing.wav'}: no such recording; correct the path"
    assert warning.startswith(f"Warning: {data / 'short.wav'}: too short to recognise (10 ms; the model needs 25 ms)")
    assert summary == "Error: 1 of 3 recordings could not be read"


def test_report_from_the_shell(calibrated, tmp_path, shell):
    said, report = tmp_path / "said.jsonl", tmp_path / "report.html"
    said.write_text('{"text": "A <B>", "pred_text": "A"}\n')
    done = shell("inspect", calibrated[0], "--html", report, "--predictions", said)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {report}; open it in a browser\n"
    page = report.read_text()
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert "&lt;B&gt;" in page
    assert "Milliseconds by part" in page
    said.write_text("{}")
    done = shell("inspect", calibrated[0], "--html", report, "--predictions", said, "--no-time", "--force")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"Error: {said}:1: not a row of `sfm-quant eval --predictions`")
    assert report.read_text() == page, "the older report is as it was"


def test_transcribe_folder_as_json_with_words(data, shell):
    embedded = Path(__file__).resolve().parents[2] / "calibration"
    clip = embedded / "clips/evaluate/000.flac"
    done = shell("transcribe", embedded / "model", clip, data, "--json", "--words")
    assert done.returncode == 0, done.stderr
    heard = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(each["audio_filepath"]).name for each in heard] == ["000.flac", "a.wav", "b.flac", "short.wav"]
    assert heard[0]["duration"] == pytest.approx(2.067)
    assert [each["word"] for each in heard[0]["words"]] == heard[0]["text"].split() != []
    assert all(0 <= each["start"] < each["end"] <= 2.067 for each in heard[0]["words"])


def test_transcribe_standard_input(model, data):
    with (data / "b.flac").open("rb") as recording:
        command = [SFM_QUANT, "transcribe", model, "-", "--json"]
        done = subprocess.run(command, stdin=recording, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert (heard["audio_filepath"], heard["duration"]) == ("-", 0.3)
    assert set(heard) == {"audio_filepath", "duration", "text"}


def test_subtitles_of_several_recordings_are_refused_before_the_model_is_loaded(data):
    done = invoke("transcribe", "no model", data, "--format", "srt")
    assert done.exit_code == 3
    assert done.stderr == "Error: --format srt writes subtitles of one recording, not of 3; run it once for each\n"


def test_transcribe_a_long_recording(model, tmp_path, shell):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 70 * 16000), 16000)
    done = shell("transcribe", model, tmp_path / "long.wav", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["duration"] == 70


def test_words_need_json():
    done = invoke("transcribe", "m", "a.wav", "--words")
    assert done.exit_code == 2
    assert "--words only affects the JSON; leave it out, or use --format json" in done.stderr


def test_command_line_itself_imports_nothing_heavy():
    code = """
import sys
sys.argv = ["/usr/bin/sfm-quant", "--help"]
import stablequant.cli.main
print(*{"torch", "transformers", "scipy", "numpy"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


STUB = """
import signal, sys, time, types
sys.argv[:] = ["sfm-quant", "calibrate", "m", "--data", "d", "--out", "o"]  # before the imports, which are fewer then
from stablequant.foundation import progress
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
from stablequant.cli import calibrate as command
command.quiet = lambda: None  # imports transformers, which takes longer than all the rest
stub = types.ModuleType("stablequant.workflows.calibrate")
sys.modules[stub.__name__] = stub
from stablequant.cli.main import run

def wait():
    print("ready", flush=True)
    time.sleep(60)
"""
ANYWHERE = "stub.calibrate = lambda options: wait()"
DURING_A_BAR = """
def calibrate(options):
    for _ in progress.bar([1, 2]):
        wait()
stub.calibrate = calibrate
"""
IN_A_DESTRUCTOR = """
class Slow:
    def __del__(self):
        wait()

def calibrate(options):
    Slow()  # and at once no longer
    time.sleep(60)
stub.calibrate = calibrate
"""
WHEN_ALL_IS_DONE = """
import atexit
def last():
    print("ready", flush=True)
    time.sleep(1)
atexit.register(last)
sys.argv[1:] = ["--version"]
"""
INTERRUPTED = "Interrupted; run the same command with --resume to continue.\n"


@pytest.mark.parametrize(
    ("where", "code", "told"),
    [
        (ANYWHERE, 130, INTERRUPTED),
        (DURING_A_BAR, 130, INTERRUPTED),
        (IN_A_DESTRUCTOR, 130, INTERRUPTED),
        (WHEN_ALL_IS_DONE, 0, ""),
        (ANYWHERE, 143, INTERRUPTED),
        (IN_A_DESTRUCTOR, 143, INTERRUPTED),
    ],
    ids=["anywhere", "during a bar", "in a destructor", "when all is done", "SIGTERM", "SIGTERM in a destructor"],
)
def test_interrupted(where, code, told):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", f"{STUB}{where}\nrun()"], **pipes) as process:
        while process.stdout.readline() != "ready\n":
            pass
        process.send_signal(signal.SIGTERM if code == 143 else signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.sub(r"\s*\d+%.*\n", "", errors) == told  # a bar has a line of its own


def test_a_bug_is_no_failed_gate():
    code = f"{STUB}stub.calibrate = lambda options: 1 / 0\nrun()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 70
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


# ---- all together


def test_calibrate_then_inspect_and_eval(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(peak_memory, "peak_rss_bytes", lambda *_: 1)
    out = tmp_path / "w8a8"
    made = invoke("calibrate", model, "--data", data, "--out", out, "--method", "max", "--json", "-")
    assert made.exit_code == 0, made.stderr
    result = json.loads(made.stdout)
    assert result["plan"] == str(out / "plan.json")
    assert result["bytes_after"] < result["bytes_before"]
    assert "times smaller" in made.stderr, "the table makes way for the JSON"
    done = invoke("eval", out, "--data", data, "--baseline", model, "--json", "-")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"]["scheme"] == "w8a8"
    assert found["model"]["sites"]["integer"] > 0
    assert found["delta"]["compression"] > 1
    assert f"2 of these recordings were used to calibrate {out}" in found["warnings"][1]
    assert "w8a8" in invoke("inspect", out).stdout


# ---- each exit


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["evaluate"],
        ["eval", "m"],
        ["eval", "m", "--data", "d", "--min-speedup", "2"],
        ["eval", "m", "--data", "d", "--threads", "0"],
        ["eval", "m", "--data", "d", "--normalize", "all"],
        ["eval", "m", "--data", "d", "--json", "/no/such/folder/result.json"],
        ["eval", "m", "--data", "d", "--json", "/tmp"],
        ["eval", "m", "--data", "d", "--junit", "/no/such/folder/result.xml"],
        ["eval", "m", "--data", "d", "--predictions", "-"],
        ["calibrate", "m", "--data", "d"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--method", "best"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--plan", "p", "--scheme", "w8a8"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--avg-bits", "3", "--target-compression", "8"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--group-size", "64"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--method", "max", "--threshold", "1"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--threshold", "nan"],
        ["calibrate", "m", "--data", "d", "--out", "o", "--scheme", "w4a8", "--avg-bits", "4"],
        ["transcribe", "m"],
        ["inspect"],
        ["inspect", "m", "--html", "-"],
        ["inspect", "m", "--result", "result.json"],
        ["inspect", "m", "--html", "/no/such/folder/report.html"],
    ],
)
def test_usage(arguments):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert done.stdout == ""


def test_gate_without_baseline_says_what_to_add():
    assert (
        "--min-speedup needs a model to compare with; add --baseline MODEL"
        in invoke("eval", "m", "--data", "d", "--min-speedup", 2).stderr
    )


@pytest.mark.parametrize("command", ["calibrate", "tune", "eval", "transcribe", "inspect", "data", "verify", "diff"])
def test_help_has_an_example(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert f"Example:\n    sfm-quant {command} " in done.stdout


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (InputError("x.wav: is broken; mend it"), "Error: x.wav: is broken; mend it\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out"),
            "Error: out: No space left on device; free some space and run it again\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "Error: out: Permission denied; use a place that you may read and write\n",
        ),
        (OSError("the hub is away"), "Error: the hub is away\n"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(monkeypatch, problem, message):
    def fail(data):
        raise problem

    monkeypatch.setattr(data_summary, "summary", fail)
    done = invoke("data", "x.wav")
    assert (done.exit_code, done.stderr, done.stdout) == (3, message, "")


def test_bug_keeps_its_traceback(monkeypatch):
    def fail(data):
        raise ZeroDivisionError

    monkeypatch.setattr(data_summary, "summary", fail)
    assert isinstance(invoke("data", "x.wav").exception, ZeroDivisionError)


def test_bad_manifest_is_named_with_its_line(tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"audio_filepath": 3}\n')
    done = invoke("eval", "m", "--data", tmp_path)
    assert done.exit_code == 3
    assert done.stderr.startswith(f"Error: {tmp_path}/manifest.jsonl:1: audio_filepath is 3, not a path")


# ---- data


def test_data_prints_what_is_there(data, tmp_path):
    done = invoke("data", data, "--json", tmp_path / "data.json")
    assert done.exit_code == 0, done.stderr
    assert "utterances  3, 3 with a transcript" in done.stdout
    assert json.loads((tmp_path / "data.json").read_text())["layout"] == "nemo"


def test_data_with_problems_counts_the_others_and_exits_with_3(data):
    lines = (data / "manifest.jsonl").read_text() + "\n{"
    done = subprocess.run(
        [SFM_QUANT, "data", "-", "--json", "-"], input=lines, cwd=data, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["layout"], found["utterances"]) == ("stdin", 3)
    assert found["problems"][0].startswith("standard input:4: not JSON")
    assert "problems    1" in done.stderr
    assert done.stderr.endswith("Error: -: not all of it can be used (problems: 1); correct or remove the entries\n")


def test_data_in_no_layout(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    done = invoke("data", tmp_path)
    assert done.exit_code == 3
    assert "not in a known layout; use one of these: " in done.stderr


# ---- where the output goes


class FakeResult:
    passed = False
    models = ()
    warnings = ("100 % noise",)

    def to_json(self):
        return '{"schema": 1}\n'

    def predictions_jsonl(self):
        return "{}\n"


@pytest.fixture
def failing_gate(monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setattr(evaluate, "evaluate", lambda options: FakeResult())
    monkeypatch.setattr("stablequant.evaluation.result.table", lambda result: "the table")


def test_json_to_stdout_sends_the_table_to_stderr(failing_gate):
    done = invoke("eval", "m", "--data", "d", "--json", "-")
    assert (done.exit_code, done.stdout, done.stderr) == (1, '{"schema": 1}\n', "the table\n")


def test_annotations_follow_the_table(failing_gate, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = invoke("eval", "m", "--data", "d")
    assert (done.stdout, done.stderr) == ("the table\n::warning title=sfm-quant eval::100 %25 noise\n", "")


def test_json_to_a_file_though_a_gate_failed(failing_gate, tmp_path):
    done = invoke("eval", "m", "--data", "d", "--json", tmp_path / "result.json")
    assert (done.exit_code, done.stdout) == (1, "the table\n")
    assert (tmp_path / "result.json").read_text() == '{"schema": 1}\n'


def test_full_disk_leaves_the_old_file(failing_gate, tmp_path, monkeypatch):
    def write_half(path, text, **options):
        with path.open("w") as file:
            file.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    old = '{"schema": 1, "model": "old"}'
    (tmp_path / "result.json").write_text(old)
    monkeypatch.setattr(Path, "write_text", write_half)
    done = invoke("eval", "m", "--data", "d", "--json", tmp_path / "result.json", "--force")
    assert done.exit_code == 3
    assert [path.read_text() for path in tmp_path.iterdir()] == [old]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("eval", "--json"),
        ("eval", "--predictions"),
        ("eval", "--junit"),
        ("calibrate", "--json"),
        ("inspect", "--html"),
        ("data", "--json"),
    ],
)
def test_a_file_that_exists_is_not_overwritten(tmp_path, command, option):
    (tmp_path / "file").write_text("old")
    needed = {"eval": ["--data", "d"], "calibrate": ["--data", "d", "--out", "o"]}.get(command, [])
    done = invoke(command, "m", *needed, option, tmp_path / "file")
    assert done.exit_code == 2
    assert "file already exists; add --force to replace it, or use another file" in done.stderr
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(("old", "force"), [("old", ["--force"]), ("", [])], ids=["forced", "nothing to lose"])
def test_an_existing_file_is_replaced(failing_gate, tmp_path, old, force):
    (tmp_path / "result.json").write_text(old)
    assert invoke("eval", "m", "--data", "d", "--json", tmp_path / "result.json", *force).exit_code == 1
    assert (tmp_path / "result.json").read_text() == '{"schema": 1}\n'


def test_a_pipe_is_written_to_as_it_is(failing_gate, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        assert invoke("eval", "m", "--data", "d", "--json", tmp_path / "pipe").exit_code == 1
        assert pipe.read() == '{"schema": 1}\n'
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_to_a_result_is_followed(failing_gate, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "result.json")
    assert invoke("eval", "m", "--data", "d", "--json", tmp_path / "link").exit_code == 1
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "result.json").read_text() == '{"schema": 1}\n'


def test_two_outputs_are_two_files(tmp_path):
    done = invoke("eval", "m", "--data", "d", "--json", tmp_path / "a", "--predictions", f"{tmp_path}/./a")
    assert done.exit_code == 2
    assert "is also the file of another option" in done.stderr


def test_an_output_needs_a_folder(tmp_path):
    for path, told in ((tmp_path, "is a folder"), (tmp_path / "no" / "a", "there is no folder")):
        done = invoke("eval", "m", "--data", "d", "--json", path)
        assert done.exit_code == 2
        assert told in done.stderr


def test_calibrate_passes_its_options_and_prints_the_sizes(monkeypatch, tmp_path):
    result = {"schema": 1, "plan": "o/plan.json", "scheme": "w8a8", "method": "stable", "selected_layers": ["conv1"]}
    result |= {
        "sites": [{"layer": "conv1", "clip_percent": 0.02}, {"layer": "conv2", "reason": "slow"}],
        "held_out": {"recordings": 3, "words": 40, "wer_increase": 2.5},
        "score": {"name": "logits", "unit": "points of what differs", "whole_model": 6.5},
        "float_passes": 3,
        "seconds": 1.0,
        "bytes_before": 4_000_000,
        "bytes_float32": 8_000_000,
        "bytes_after": 1_000_000,
    }
    given = []
    stub = types.ModuleType("stablequant.workflows.calibrate")
    stub.calibrate = lambda options: (given.append(options), result)[1]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    done = invoke("calibrate", "m", "--data", "d", "--out", "o", "--max-samples", 9, "--json", tmp_path / "c.json")
    assert done.exit_code == 0, done.stderr
    assert given == [CalibrateOptions("m", "d", "o", max_samples=9)]
    assert "w8a8, stable: 1 of 2 sites quantized" in done.stdout
    assert "4.0 MB -> 1.0 MB, 4.00 times smaller (8.00 times smaller than its parameters in float32)" in done.stdout
    assert "layers whose largest inputs were left out of the range, as outliers: 1 of 2" in done.stdout
    score = "score: 6.500 points of what differs; lower is better, 0 = same as the float model\n"
    assert score in done.stdout
    assert "change of the word error rate on 40 held-out words: +2.50 points" in done.stdout
    assert "took 1 s; `sfm-quant inspect o` shows" in done.stdout
    assert "float passes" not in done.stdout, "the word of a search, not of its user"
    assert json.loads((tmp_path / "c.json").read_text()) == result
