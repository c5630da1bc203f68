import hashlib
import json
import unicodedata
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from stablequant.evaluation import peak_memory, timing
from stablequant.evaluation.result import table
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import EvaluateOptions
from stablequant.models.checkpoint import read
from stablequant.models.families.base import Geometry
from stablequant.models.tasks import ctc
from stablequant.report import inputs
from stablequant.speech import audio, waveforms
from stablequant.workflows import evaluate


@dataclass
class Clock:
    now: float = 0.0

    def perf_counter(self):
        return self.now


class Letters:
    """A tokenizer of capital letters, or of other symbols."""

    all_special_tokens = ("<pad>",)
    init_kwargs: dict[str, bool] = {}  # noqa: RUF012  (as transformers has it)

    def __init__(self, symbols="ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        self.symbols = symbols

    def get_vocab(self):
        return {symbol: place for place, symbol in enumerate(("<pad>", "|", *self.symbols))}


@dataclass
class Fake:
    """Answers the words that it is given for each length of waveform, and takes its time on the test's own clock."""

    path: str
    texts: dict[int, str]
    clock: Clock
    order: list[str]
    pace: float = 1.0  # seconds for a second of audio, and ten times that for the first of a length
    size: int = 4000
    scheme: str = "float32"
    sampling_rate: int = 16000
    packed_pace: float | None = None  # seconds for a second of audio in a packed call, three times that at first
    notices: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    float32_bytes: int = 8000
    revision: str | None = None
    target_lang: str | None = None
    calibrated_on: frozenset[str] = frozenset()

    def __post_init__(self):
        self.sites = {"integer": 0, "simulated": 0, "float": 3}
        self.processor = SimpleNamespace(tokenizer=Letters())
        self.met = set()

    geometry = Geometry(400, 320)
    min_samples = geometry.fewest
    task = ctc

    def fits(self, samples):
        return sum(samples) <= 30 * self.sampling_rate

    def recognise(self, waveforms):
        heard = self.transcribe_all(waveforms) if len(waveforms) > 1 else map(self.transcribe, waveforms)
        return [SimpleNamespace(text=text, temperature=0.0) for text in heard]

    def transcribe(self, waveform):
        assert waveform.dtype == np.float32
        self.order.append(self.path)
        first = 1 if len(waveform) in self.met else 10
        self.met.add(len(waveform))
        self.clock.now += first * self.pace * len(waveform) / self.sampling_rate
        return self.texts[len(waveform)]

    @property
    def batches(self):
        return self.packed_pace is not None

    def transcribe_all(self, waveforms):
        assert self.batches
        assert waveforms
        lengths = tuple(map(len, waveforms))
        first = 1 if lengths in self.met else 3
        self.met.add(lengths)
        self.clock.now += first * self.packed_pace * sum(lengths) / self.sampling_rate
        return [self.texts[length] for length in lengths]

    @property
    def bytes_on_disk(self):
        return self.size

    @property
    def folder(self):
        return self.path


UTTERANCES = (("a.wav", 16000, "ONE TWO"), ("b.wav", 8000, "THREE"), ("c.wav", 32000, ""), ("d.wav", 100, "FOUR"))
FLOAT = {16000: "ONE TWO", 8000: "TREE", 32000: ""}
OURS = {16000: "ONE", 8000: "TREE", 32000: "OH"}


def write_data(folder, utterances=UTTERANCES):
    rng = np.random.default_rng(0)
    rows = []
    for name, samples, text in utterances:
        soundfile.write(folder / name, rng.uniform(-0.5, 0.5, samples), 16000)
        rows.append(json.dumps({"audio_filepath": name, "text": text}))
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    return str(folder)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Two models, "float" and "ours" (twice as fast, a quarter of the size), and four recordings."""
    clock, order = Clock(), []
    fakes = {
        "float": Fake("float", FLOAT, clock, order),
        "ours": Fake("ours", OURS, clock, order, pace=0.5, size=1000, scheme="w8a8"),
    }
    monkeypatch.setattr(read, "load", lambda path, target_lang, decoding: fakes[path])
    monkeypatch.setattr(
        peak_memory, "peak_rss_bytes", lambda model, seconds, threads, target_lang: round(1000 * seconds)
    )
    monkeypatch.setattr(timing, "time", clock)
    return fakes, write_data(tmp_path)


def run(bench, **options):
    return evaluate.evaluate(EvaluateOptions("ours", bench[1], **{"baseline": "float", **options}))


def looping(bench, *names):
    """Models that answer the longest recording with a loop."""
    for name in names:
        bench[0][name].texts = {**bench[0][name].texts, 32000: "OH " * 50}
    return bench


@pytest.mark.parametrize(("limit", "passed"), [(0, False), (1, True)])
def test_outputs_that_loop_are_counted_and_limited(bench, limit, passed):
    found = run(looping(bench, "ours"), max_looping=limit)
    assert (found.model.looping, found.baseline.looping, found.delta.more_looping) == (1, 0, 1)
    assert found.passed == passed
    told = table(found)
    assert f"{'passed' if passed else 'FAILED'}: max_looping {limit} more outputs than the baseline's, found 1" in told
    assert ["looping", "outputs", "1", "0"] in [line.split() for line in told.splitlines()]
    assert ["more", "looping", "outputs", "+1"] in [line.split() for line in told.splitlines()]


def test_loops_of_the_baseline_are_no_fault_of_the_model(bench):
    found = run(looping(bench, "ours", "float"), max_looping=0)
    assert (found.model.looping, found.delta.more_looping, found.passed) == (1, 0, True)
    found = run(looping(bench, "float"), others=("float",), max_looping=0)
    assert [each.delta.more_looping for each in found.models] == [0, 0]


def test_rare_words_are_counted_apart(bench):
    found = run(bench)  # each of the four words occurs once
    assert found.data.rare_words == 4
    assert (found.model.rare_recall_percent, found.baseline.rare_recall_percent) == (25.0, 50.0)
    assert found.delta.rare_recall_points == -25.0
    low, high = found.delta.rare_recall_ci95
    assert low < -25.0 < high <= 0.0
    assert "4 words (4 rare) in 4 utterances" in table(found)


def test_data_without_rare_words(bench, tmp_path):
    data = write_data(tmp_path, [("a.wav", 16000, "ONE TWO"), ("b.wav", 8000, "Two one.")])
    found = run((bench[0], data))
    assert (found.data.rare_words, found.model.rare_recall_percent, found.delta.rare_recall_points) == (0, None, None)
    assert ["rare", "words", "recognised,", "%", "-", "-"] in [line.split() for line in table(found).splitlines()]
    assert json.loads(found.to_json())["model"]["rare_recall_ci95"] is None


def test_deletions_and_insertions_are_shares_of_the_words(bench):
    found = run(bench)
    assert (found.model.deletions_percent, found.model.insertions_percent) == (50.0, 25.0)
    assert "50.00 / 25.00" in table(found)


def test_errors_are_counted_over_all_utterances(bench):
    found = run(bench)
    ours = found.model
    # ONE TWO -> ONE, THREE -> TREE, "" -> OH, FOUR too short to be heard
    assert (ours.substitutions, ours.deletions, ours.insertions) == (1, 2, 1)
    assert ours.wer_percent == 100.0
    assert found.baseline.wer_percent == 50.0
    assert found.delta.wer_percent_points == 50.0
    assert ours.cer_percent == pytest.approx(100 * (4 + 1 + 2 + 4) / (7 + 5 + 0 + 4))
    assert found.data.words == 4
    assert found.data.utterances == 4


def test_speed_is_of_the_second_answer_to_what_could_be_answered(bench):
    found = run(bench)
    assert found.baseline.rtfx == pytest.approx(1.0)
    assert found.model.rtfx == pytest.approx(2.0)
    assert found.model.latency_ms == pytest.approx({"p50": 500, "p95": 950})
    assert found.delta.speedup == pytest.approx(2.0)
    assert found.delta.speedup_ci95 == pytest.approx((2.0, 2.0))
    assert found.delta.compression == 4.0
    assert found.data.audio_seconds == pytest.approx(3.5 + 100 / 16000)


@pytest.mark.parametrize(("pace", "speedup"), [(0.25, 4.0), (0.75, 2.0)], ids=["packed faster", "packed slower"])
def test_throughput_is_that_of_the_better_way(bench, pace, speedup):
    bench[0]["ours"].packed_pace = pace
    found = run(bench)
    assert found.model.rtfx == pytest.approx(2.0)
    assert found.model.rtfx_packed == pytest.approx(speedup)
    assert found.baseline.rtfx_packed == pytest.approx(1.0)
    assert found.delta.speedup == pytest.approx(2.0)
    assert found.delta.speedup_packed == pytest.approx(speedup)


def test_groups_hold_half_a_minute(bench, tmp_path):
    fake = bench[0]["ours"]
    fake.packed_pace, calls = 0.25, []
    fake.texts = dict.fromkeys((20 * 16000, 9 * 16000, 40 * 16000), "ONE")
    plain = fake.recognise
    fake.recognise = lambda waveforms: calls.append([len(w) // 16000 for w in waveforms]) or plain(waveforms)
    lengths = (20, 9, 9, 40, 20)
    rows = [(f"{place}.wav", seconds * 16000, "ONE") for place, seconds in enumerate(lengths)]
    evaluate.evaluate(EvaluateOptions("ours", write_data(tmp_path, [*rows, ("x.wav", 100, "ONE")])))
    expected = [[20], [9], [20, 9], *([each] for each in (9, 9, 40, 40, 20, 20))]  # alone, then together
    assert calls == [call for call in expected for _ in range(2)]  # once to warm up


def test_what_runs_slower_than_it_should_is_told(bench):
    bench[0]["ours"].notices = ("ours: slow",)
    assert "ours: slow" in run(bench).warnings


def test_models_take_turns_and_go_first_in_turn(bench):
    run(bench)
    there, back = ["ours", "float"] * 2, ["float", "ours"] * 2
    assert bench[0]["ours"].order == there + back + there


def test_one_model_alone(bench):
    found = run(bench, baseline=None)
    assert (found.baseline, found.delta, found.gates) == (None, None, ())
    assert found.passed
    assert "baseline" not in table(found)


def test_one_utterance_has_no_intervals(bench, tmp_path):
    """An interval of no width would look certain."""
    (tmp_path / "one").mkdir()
    options = EvaluateOptions("ours", write_data(tmp_path / "one", UTTERANCES[:1]), "float", min_speedup=1.5)
    found = evaluate.evaluate(options)
    written = json.loads(found.to_json())
    for part, names in (
        ("model", ["wer_ci95", "rare_recall_ci95"]),
        ("delta", ["wer_ci95", "p_value", "speedup_ci95"]),
    ):
        assert [written[part][name] for name in names] == [None] * len(names)
    shown = table(found)
    assert "2 words (2 rare) in 1 utterance, 1.0 s; a 95 % interval needs more than one utterance" in shown
    assert "[" not in shown
    assert any(
        "min_speedup 1.5 is held against one utterance, so chance may decide" in each for each in found.warnings
    )
    (tmp_path / "result.json").write_text(found.to_json())
    assert inputs.evaluation(str(tmp_path / "result.json"))["lines"][0] in shown, "the report reads it"


def test_json_has_the_fields_of_the_contract(bench):
    found = json.loads(run(bench, min_speedup=2.0).to_json())
    assert found["schema"] == 1
    model = {"path", "scheme", "bytes_on_disk", "wer_percent", "wer_ci95", "cer_percent", "substitutions", "deletions"}
    model |= {"insertions", "rtfx", "rtfx_packed", "latency_ms", "peak_rss_bytes", "sites"}
    model |= {"float32_bytes", "revision", "target_lang", "deletions_percent", "insertions_percent", "looping"}
    model |= {"rare_recall_percent", "rare_recall_ci95", "decoded_again"}
    assert set(found["model"]) == set(found["baseline"]) == model
    delta = {"wer_percent_points", "wer_ci95", "p_value", "speedup", "speedup_ci95", "speedup_packed", "compression"}
    delta |= {"compression_float32", "more_looping", "rare_recall_points", "rare_recall_ci95"}
    assert set(found["delta"]) == delta
    assert found["gates"] == [{"name": "min_speedup", "limit": 2.0, "value": 2.0, "passed": True}]
    assert set(found["data"]) == {"utterances", "words", "audio_seconds", "sha256", "skipped_bad", "rare_words"}
    environment = {"cpu", "isa", "kernels", "attention", "threads", "torch", "transformers", "stablequant", "seed"}
    environment |= {"attention_form"}
    assert set(found["environment"]) == environment
    assert found["environment"]["torch"] == torch.__version__
    assert found["normalize"] == "none"
    assert found["model"]["peak_rss_bytes"] == 2000, "of the longest recording"
    fields = {"schema", "model", "baseline", "delta", "gates", "data", "environment", "normalize", "warnings"}
    fields |= {"decoding"}
    assert set(found) == fields, "of one model; several have `models` besides"


@pytest.mark.parametrize(
    ("limit", "value", "passed"),
    [
        ({"max_wer_increase": 50.0}, 50.0, True),
        ({"max_wer_increase": 49.9}, 50.0, False),
        ({"min_speedup": 2.1}, 2.0, False),
        ({"min_compression": 4.0}, 4.0, True),
        ({"min_compression": 4.1}, 4.0, False),
        ({"max_looping": 0}, 0, True),
    ],
)
def test_gates(bench, limit, value, passed):
    found = run(bench, **limit)
    (gate,) = found.gates
    assert (gate.name, gate.limit) == next(iter(limit.items()))
    assert gate.value == pytest.approx(value)
    assert gate.passed == found.passed == passed
    assert ("FAILED" in table(found)) != passed


@pytest.mark.parametrize("name", ["max_wer_increase", "min_speedup", "min_compression", "max_looping"])
def test_gate_without_a_baseline_is_refused(name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} needs a model to compare with; add --baseline"):
        EvaluateOptions("ours", "data", **{name: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_speedup": float("nan"), "baseline": "b"}, "--min-speedup is nan"),
        ({"normalize": "x"}, "--normalize is x; it must be one of none"),
        ({"max_looping": -1, "baseline": "b"}, "--max-looping is -1; it must be 0 or more"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        EvaluateOptions("ours", "data", **options)


def test_short_recordings_are_told(bench):
    assert run(bench).warnings == (
        "1 of 4 recordings are too short for the model and are scored as empty transcripts",
        "1 of 4 transcripts are empty; everything recognised there counts as inserted words",
    )


def test_calibration_on_the_test_recordings_is_told(bench, tmp_path):
    fakes, _ = bench
    copy = audio.whole_file(tmp_path / "b.wav")
    fakes["ours"].calibrated_on = frozenset({audio.facts(copy, 16000).sha256, "00"})
    warning = run(bench).warnings[2]
    assert warning == "1 of these recordings were used to calibrate ours, so its WER is optimistic; evaluate on others"
    assert f"warning: {warning}" in table(run(bench))


def test_letter_case_is_told_and_normalization_forgives_it(bench):
    fakes, _ = bench
    fakes["ours"].texts = {16000: "one two", 8000: "three", 32000: ""}
    found = run(bench)
    assert found.model.wer_percent == 100.0
    assert "letter case" in found.warnings[-1]
    kind = run(bench, normalize="basic")
    assert kind.model.wer_percent == 25.0
    assert kind.normalize == "basic"
    assert not any("letter case" in warning for warning in kind.warnings)


def test_transcripts_that_the_vocabulary_cannot_write_are_told(bench):
    fakes, _ = bench
    assert not any("cannot be written" in warning for warning in run(bench).warnings)
    fakes["ours"].processor = SimpleNamespace(tokenizer=Letters(("ONE", "TWO")))
    expected = "2 of 4 words of the transcripts (FOUR, THREE, ...) cannot be written with the vocabulary of ours"
    assert sum(expected in warning for warning in run(bench).warnings) == 1
    assert not any("cannot be written" in warning for warning in run(bench, normalize="basic").warnings)


def test_references_in_another_form_of_unicode(bench, tmp_path):
    """Decomposed (NFD) in the transcripts, composed (NFC) in the vocabulary."""
    fakes, _ = bench
    soundfile.write(tmp_path / "s.wav", np.ones(5000) / 9, 16000)
    entry = {"audio_filepath": "s.wav", "text": unicodedata.normalize("NFD", "ZÉRO ÇA")}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(entry))
    fakes["ours"].processor = SimpleNamespace(tokenizer=Letters("ZÉROÇA"))
    fakes["ours"].texts = {5000: "ZÉRO ÇA"}
    found = run(bench, baseline=None)
    assert (found.model.wer_percent, found.warnings) == (0.0, ())


def test_memory_that_could_not_be_measured_is_told(bench, monkeypatch):
    monkeypatch.setattr(peak_memory, "peak_rss_bytes", lambda *_: None)
    found = run(bench, baseline=None)
    assert "peak memory could not be measured" in found.warnings[-1]
    assert json.loads(found.to_json())["model"]["peak_rss_bytes"] is None
    assert "unknown" in table(found)


def test_predictions_are_a_manifest_with_both_answers(bench, tmp_path):
    rows = [json.loads(line) for line in run(bench).predictions_jsonl().splitlines()]
    assert rows[1] == {
        "audio_filepath": str(tmp_path / "b.wav"),
        "offset": 0.0,
        "duration": 0.5,
        "loudness_dbfs": pytest.approx(20 * np.log10(0.5 / np.sqrt(3)), abs=0.2),
        "text": "THREE",
        "model": "ours",
        "pred_text": "TREE",
        "time": pytest.approx(0.25),
        "compression_ratio": 0.333,
        "baseline_model": "float",
        "baseline_pred_text": "TREE",
        "baseline_time": pytest.approx(0.5),
        "baseline_compression_ratio": 0.333,
    }
    assert (rows[3]["pred_text"], rows[3]["time"]) == ("", None)


def test_prediction_of_a_recording_inside_a_data_set_has_no_path(bench, tmp_path, monkeypatch):
    content = (tmp_path / "b.wav").read_bytes()
    inside = audio.Utterance("7", tmp_path / "7", "THREE", None, 0.0, None, "set row 7", lambda: content)
    monkeypatch.setattr(audio, "listing", lambda *_, **__: audio.Listing("saved_dataset", [inside], []))
    (prediction,) = run(bench).predictions
    assert prediction.audio_filepath == "set row 7"


def test_silence_has_no_loudness(bench, tmp_path):
    soundfile.write(tmp_path / "b.wav", np.zeros(8000), 16000)
    assert [each.loudness_dbfs is None for each in run(bench).predictions] == [False, True, False, False]


def test_data_hash_is_of_sound_and_words_not_of_names_and_order(bench, tmp_path):
    before = run(bench).data.sha256
    (tmp_path / "b.wav").rename(tmp_path / "z.wav")
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_text().replace("b.wav", "z.wav").splitlines()
    manifest.write_text("\n".join(lines[::-1]))
    assert run(bench).data.sha256 == before
    manifest.write_text("\n".join(lines).replace("THREE", "TREE"))
    assert run(bench).data.sha256 != before
    assert len(before) == len(hashlib.sha256().hexdigest())


def test_same_seed_gives_the_same_subset_and_numbers(bench):
    first, second = (run(bench, max_samples=3, seed=5) for _ in range(2))
    assert first.data.utterances == 3
    assert replace(first, predictions=()) == replace(second, predictions=())


def test_silent_and_non_ascii(bench, tmp_path):
    fakes, _ = bench
    soundfile.write(tmp_path / "s.wav", np.zeros(5000), 16000)
    (tmp_path / "manifest.jsonl").write_text('{"audio_filepath": "s.wav", "text": "cafe\u0301 ДА"}', encoding="utf-8")
    fakes["ours"].texts = {5000: "caf\u00e9 да"}
    found = run(bench, baseline=None)
    assert found.model.substitutions == 1
    assert "ДА" in found.predictions_jsonl()


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ([("a.wav", 16000, "")], "the transcripts contain no words"),
        ([("a.wav", 100, "ONE")], "every recording is too short for the model"),
    ],
)
def test_data_that_measures_nothing(bench, tmp_path, utterances, message):
    with pytest.raises(InputError, match=message):
        evaluate.evaluate(EvaluateOptions("ours", write_data(tmp_path, utterances)))


def test_bad_entries_are_left_out_told_and_counted(bench, tmp_path):
    (tmp_path / "b.wav").write_bytes(b"no sound")
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write("\n{")
    found = run(bench, skip_bad=True)
    assert (found.data.utterances, found.data.skipped_bad) == (3, 2)
    assert found.warnings[0].startswith(f"left out: {tmp_path}/manifest.jsonl:5: not JSON")
    assert "b.wav: a text file, not audio" in found.warnings[1]


def test_models_of_different_sampling_rates(bench):
    bench[0]["float"].sampling_rate = 8000
    with pytest.raises(InputError, match="float: needs 8000 Hz and the first model 16000 Hz"):
        run(bench)


def test_threads_are_set_for_the_run_only(bench):
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    assert run(bench, threads=other).environment["threads"] == other
    assert torch.get_num_threads() == before


def test_bad_recording_stops_the_run(bench, tmp_path):
    (tmp_path / "b.wav").write_bytes(b"")
    (tmp_path / "c.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"b\.wav: the file is empty.*\n.*c\.wav: a text file, not audio"):
        run(bench)
    assert bench[0]["ours"].order == [], "nothing was recognised before"


def test_each_recording_is_decoded_once_to_check_it_and_once_to_recognise_it(bench, monkeypatch):
    decoded, plain = [], waveforms.opened
    monkeypatch.setattr(waveforms, "opened", lambda name, *rest: decoded.append(name[-5:]) or plain(name, *rest))
    run(bench)
    assert decoded == ["a.wav", "b.wav", "c.wav", "d.wav", "a.wav", "b.wav", "c.wav"]  # d.wav is too short


# ---- several models


@pytest.fixture
def three(bench):
    """A third model, "small": four times as fast as "float" and an eighth of its size, and always right."""
    ours = bench[0]["ours"]
    right = {samples: text for _, samples, text in UTTERANCES}
    bench[0]["small"] = Fake("small", right, ours.clock, ours.order, pace=0.25, size=500, scheme="w4a8")
    return bench


def test_several_models_are_compared_in_one_run(three):
    found = run(three, others=("small",))
    assert [each.model.path for each in found.models] == ["ours", "small"]
    assert [each.delta.speedup for each in found.models] == pytest.approx([2.0, 4.0])
    assert [each.delta.compression for each in found.models] == [4.0, 8.0]
    assert [each.delta.wer_percent_points for each in found.models] == [50.0, -25.0]
    there, back = ["ours", "small", "float"] * 2, ["float", "small", "ours"] * 2
    assert three[0]["ours"].order == there + back + there


def test_first_of_several_models_is_where_one_model_is(three):
    alone, several = (json.loads(run(three, others=others, min_speedup=3.0).to_json()) for others in ((), ("small",)))
    assert {**several, "gates": several["gates"][:1], "models": 0} == {**alone, "models": 0}
    ours, small = several["models"]
    assert {key: ours[key] for key in alone["model"]} == alone["model"]
    assert (ours["delta"], ours["gates"]) == (alone["delta"], alone["gates"])
    assert small["gates"] == [{"name": "min_speedup", "limit": 3.0, "value": pytest.approx(4.0), "passed": True}]
    assert [(gate["name"], gate["passed"]) for gate in several["gates"]] == [
        ("min_speedup", False),
        ("min_speedup small", True),
    ]


def test_one_of_several_models_that_misses_a_limit_fails_the_run(three):
    found = run(three, others=("small",), min_compression=5.0)
    assert [gate.passed for gate in found.gates] == [False, True]
    assert not found.passed
    told = table(found)
    assert "FAILED: min_compression 5 times smaller than the baseline's files, found 4 (ours)" in told
    assert "passed: min_compression 5 times smaller than the baseline's files, found 8 (small)" in told


def test_table_has_a_column_for_each_model(three):
    header, paths, *rows = [line.split() for line in table(run(three, others=("small",))).splitlines()]
    assert header == ["model", "model", "2", "baseline"]
    assert paths == ["path", "ours", "small", "float"]
    assert ["times", "smaller,", "files", "4.00", "8.00"] in rows
    assert ["times", "smaller", "than", "float32", "parameters", "8.00", "16.00"] in rows


def test_predictions_of_several_models(three):
    row = json.loads(run(three, others=("small",)).predictions_jsonl().splitlines()[1])
    said = {key: value for key, value in row.items() if "pred_text" in key}
    assert said == {"pred_text": "TREE", "pred_text_2": "THREE", "baseline_pred_text": "TREE"}
    assert row["time_2"] == pytest.approx(0.125)
    assert (row["model"], row["model_2"], row["baseline_model"]) == ("ours", "small", "float")


def test_several_models_without_a_baseline(three):
    found = json.loads(run(three, others=("small",), baseline=None).to_json())
    assert [(each["path"], each["delta"], each["gates"]) for each in found["models"]] == [
        ("ours", None, []),
        ("small", None, []),
    ]


# ---- how sure a gate on speed is


@pytest.mark.parametrize(("limit", "warned"), [(2.0, True), (4.5, False), (0.5, False)])
def test_limit_inside_the_interval_of_the_speedup_is_told(bench, limit, warned):
    plain = bench[0]["ours"].transcribe

    def uneven(waveform):  # the long recordings gain less
        bench[0]["ours"].pace = 0.25 if len(waveform) < 20000 else 0.9
        return plain(waveform)

    bench[0]["ours"].transcribe = uneven
    told = [each for each in run(bench, min_speedup=limit).warnings if "is inside the confidence interval" in each]
    assert bool(told) == warned
    assert all(each.startswith(f"ours: min_speedup {limit:g} is inside") for each in told)
