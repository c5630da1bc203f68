"""A tiny Whisper from its float folder to text, through the real commands; transformers reads what they write."""

import json
import re

import numpy as np
import pytest
import soundfile
import tiny
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

from stablequant.models.checkpoint import read
from stablequant.models.checkpoint.verify import problems
from stablequant.quantization.plan.plan import read_plan
from stablequant.workflows.transcribe import transcribe_files

LIMIT = 400  # seconds of a command, on a busy machine
CALIBRATIONS = {
    "max": ("--method", "max"),
    "stable": ("--threshold", "1"),
    "w4a8": ("--method", "max", "--scheme", "w4a8"),
    "avg-bits": ("--avg-bits", "5", "--method", "max"),
    "wer": ("--score", "wer", "--threshold", "5"),
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Four recordings with the words that the tiny Whisper writes, and one more."""
    folder = tmp_path_factory.mktemp("sounds")
    for number, text in enumerate(("H", "B", "F A", "F")):
        soundfile.write(folder / f"{number}.wav", tiny.wave(number, 8000 + 1600 * number), tiny.RATE)
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("whisper"), "whisper", "multilingual")


def command(*arguments):
    done = tiny.sfm_quant(*arguments, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, whisper, sounds):
    """The folder of a plain W8A8 model."""
    out = tmp_path_factory.mktemp("quantized") / "q"
    command("calibrate", whisper, "--data", sounds, "--out", out, "--method", "max")
    return out


def heard(text):
    """{name of the recording: text} of what transcribe prints."""
    return {line.partition("\t")[0].rpartition("/")[2]: line.partition("\t")[2] for line in text.splitlines()}


def by_transformers(folder, paths, **options):
    """The same by transformers' own pipeline, which has five beams where nothing else is asked for."""
    recognise = pipeline("automatic-speech-recognition", str(folder))
    options = {"task": "transcribe", "num_beams": 1} | options
    sounds = [{"raw": soundfile.read(each, dtype="float32")[0], "sampling_rate": tiny.RATE} for each in paths]
    texts = [recognise(each, generate_kwargs=options)["text"] for each in sounds]
    return {each.name: " ".join(text.split()) for each, text in zip(paths, texts, strict=True)}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_model_is_calibrated_and_read_by_transformers(name, whisper, quantized, sounds, tmp_path):
    out = tmp_path / "q"
    command("calibrate", whisper, "--data", sounds, "--out", out, *CALIBRATIONS[name], "--json", tmp_path / "c.json")
    done = json.loads((tmp_path / "c.json").read_text())
    assert np.isfinite(done["score"]["whole_model"])
    assert problems(out) == []
    assert ("proj_out" in command("diff", quantized, out)) == (name != "max")
    texts = heard(command("transcribe", out, sounds))
    assert list(texts) == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert texts == by_transformers(out, sorted(sounds.glob("*.wav")))


def test_a_float_model_and_transformers_write_the_same(whisper, sounds):
    texts = heard(command("transcribe", whisper, sounds))
    assert texts == by_transformers(whisper, sorted(sounds.glob("*.wav")))
    assert len(set(texts.values())) > 2


def test_five_beams_are_what_transformers_has_by_default(quantized, sounds):
    texts = heard(command("transcribe", quantized, sounds, "--beam-size", "5"))
    assert texts == by_transformers(quantized, sorted(sounds.glob("*.wav")), num_beams=5)
    recognise = pipeline("automatic-speech-recognition", str(quantized))
    sound = {"raw": soundfile.read(sounds / "1.wav", dtype="float32")[0], "sampling_rate": tiny.RATE}
    assert texts["1.wav"] == " ".join(recognise(sound, generate_kwargs={"task": "transcribe"})["text"].split())


def test_options_of_decoding_reach_the_model(quantized, sounds):
    plain = heard(command("transcribe", quantized, sounds))
    for options in (("--language", "de"), ("--language", "en", "--task", "translate"), ("--beam-size", "3")):
        found = heard(command("transcribe", quantized, sounds, *options))
        assert list(found) == list(plain)
    refusal = tiny.sfm_quant("transcribe", quantized, sounds, "--language", "fr", timeout=LIMIT)
    assert refusal.returncode == 3
    assert "no language 'fr'; there are de, en" in refusal.stderr


def test_words_and_subtitles(quantized, sounds):
    lines = command("transcribe", quantized, sounds, "--json", "--words").splitlines()
    for line in map(json.loads, lines):
        assert " ".join(each["word"] for each in line["words"]) == line["text"]
        assert all(0 <= each["start"] < each["end"] <= 1 for each in line["words"])
    assert "-->" in command("transcribe", quantized, sounds / "1.wav", "--format", "srt")


def test_eval_compares_with_the_float_model(quantized, whisper, sounds, tmp_path):
    result = tmp_path / "r.json"
    shown = command("eval", quantized, "--data", sounds, "--baseline", whisper, "--json", result)
    found = json.loads(result.read_text())
    texts = {path: heard(command("transcribe", path, sounds)) for path in (quantized, whisper)}
    for key, path in (("model", quantized), ("baseline", whisper)):
        assert found[key]["path"] == str(path)
        words = {each.stem: each.read_text().split() for each in sounds.glob("*.txt")}
        right = [texts[path][f"{name}.wav"].split() == said for name, said in words.items()]
        assert all(right) == (found[key]["wer_percent"] == 0)
    assert found["delta"]["compression"] > 1.3
    assert found["data"]["utterances"] == 4
    assert found["decoding"] == {"language": None, "task": "transcribe", "beam_size": 1, "fallback": True}
    assert "speedup" in found["delta"]
    assert str(whisper) in shown
    sites = read_plan(quantized).sites
    assert sum(found["model"]["sites"].values()) == sum(found["baseline"]["sites"].values()) == len(sites)
    assert re.search(rf"sites quantized +35 of {len(sites)} +0 of {len(sites)}\n", shown)
    assert f"35 of {len(sites)} sites quantized" in command("inspect", quantized)


def test_inspect_and_verify(quantized):
    shown = command("inspect", quantized)
    assert "proj_out" in shown
    assert "looked up in the codes of proj_out" in (quantized / "plan.json").read_text()
    assert "ok" in command("verify", quantized)


def test_from_pretrained_gives_the_model_that_is_recognised_with(quantized):
    model = AutoModelForSpeechSeq2Seq.from_pretrained(quantized)
    assert tiny.integer_sites(model)
    assert type(AutoProcessor.from_pretrained(quantized)).__name__ == "WhisperProcessor"
    recognizer = read.load(str(quantized))
    assert (recognizer.scheme, recognizer.sites["integer"] + recognizer.sites["simulated"]) == ("w8a8", 35)


# ---- recordings of all lengths


@pytest.fixture(scope="module", params=["float", "quantized"])
def recognizer(request, whisper, quantized):
    return read.load(str(whisper if request.param == "float" else quantized))


def texts(recognizer, folder, **waveforms):
    for name, waveform in waveforms.items():
        soundfile.write(folder / f"{name}.wav", waveform, tiny.RATE, subtype="FLOAT")
    found = dict(transcribe_files(recognizer, [str(folder / f"{name}.wav") for name in waveforms]))
    return {path.rpartition("/")[2].partition(".")[0]: answer for path, answer in found.items()}


def test_silence_noise_and_next_to_nothing(recognizer, tmp_path):
    answers = texts(
        recognizer,
        tmp_path,
        silence=np.zeros(8000, np.float32),
        noise=np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1,
        short=tiny.wave(0, 160),  # 10 ms
        shorter=tiny.wave(0, 159),
        whole=tiny.wave(0, 16000),  # a window
    )
    assert all(isinstance(each.text, str) for each in answers.values())
    assert answers["shorter"].text == ""
    assert [name for name, each in answers.items() if each.warning] == ["shorter"]
    assert [answers[name].duration for name in ("short", "whole")] == [0.01, 1.0]


def test_a_recording_of_no_samples(recognizer, tmp_path):
    [answer] = texts(recognizer, tmp_path, nothing=np.zeros(0, np.float32)).values()
    assert str(answer)
    assert getattr(answer, "text", "") == ""


def test_a_long_recording_is_cut_at_its_pauses(recognizer, tmp_path):
    """Longer than a window: each stretch between pauses is recognised by itself."""
    stretches = [tiny.wave(seed, 9600) for seed in (0, 1, 3, 6)]
    pause = 1e-4 * np.random.default_rng(0).standard_normal(9600).astype(np.float32)
    long = np.concatenate([part for each in stretches for part in (each, pause)])
    answers = texts(recognizer, tmp_path, long=long)
    assert answers["long"].duration == pytest.approx(4.8)
    expected = [recognizer.longest, len(long) / tiny.RATE]
    assert expected[1] > 4 * expected[0]
    assert len(answers["long"].text.split()) >= 3


def test_speech_without_a_pause_is_cut_into_windows(recognizer, tmp_path):
    """No sample is recognised twice, and none is left out."""
    asked = []
    plain = type(recognizer).recognise

    class Watched(type(recognizer)):
        def recognise(self, waveforms):
            asked.extend(map(len, waveforms))
            return plain(self, waveforms)

    watched = Watched(**{name: getattr(recognizer, name) for name in recognizer.__dataclass_fields__})
    answers = texts(watched, tmp_path, long=tiny.wave(0, 5 * tiny.RATE))
    assert sum(asked) == 5 * tiny.RATE
    assert max(asked) <= tiny.RATE
    assert answers["long"].text
