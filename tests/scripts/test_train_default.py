"""The training script's building blocks, and the clips that it made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import speech_mixing as mixing  # noqa: E402
import train_default  # noqa: E402
from speech_synthesis import DIGITS, LEARNER_SPELLINGS, RATE, RESPELT, held_out_voices, train_voices  # noqa: E402


def tone(seconds: float, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(np.arange(int(seconds * RATE)) * 0.2)).astype(np.float32)


def test_align_finds_each_label_also_a_doubled_one() -> None:
    path = [0, 1, 1, 0, 1, 2, 0, 0]
    log_probs = np.log(np.where(np.eye(3)[path] > 0, 0.9, 0.05))
    assert mixing.align(log_probs, [1, 1, 2]) == [(1, 2), (4, 4), (5, 5)]


def test_words_are_cut_at_the_silence_between_them() -> None:
    gap = np.zeros(RATE // 4, np.float32)
    samples = mixing.to_int16(np.concatenate([tone(0.4), gap, tone(0.6)]))
    utterance = mixing.Utterance(samples, ("ONE", "TWO"), "a")
    (first, one), (second, two) = mixing.cut_words(utterance, [(1000, 5000), (13000, 18000)])
    assert (first, second) == ("ONE", "TWO")
    assert len(one) == pytest.approx(0.42 * RATE, abs=0.03 * RATE)
    assert len(two) == pytest.approx(0.64 * RATE, abs=0.03 * RATE)


def test_splice_speaks_the_words_it_names() -> None:
    bank = mixing.WordBank()
    bank.add("a", "ONE", mixing.to_int16(tone(0.3)))
    string = mixing.splice(bank, "a", 3, np.random.default_rng(0))
    assert string.words == ("ONE",) * 3
    assert string.spans[-1][1] == len(string.samples)
    assert string.respeed(2.0).spans[-1][1] == pytest.approx(len(string.samples) / 2, abs=2)


@pytest.mark.parametrize("seed", range(8))
def test_augmented_samples_are_normalised_and_finite(seed: int) -> None:
    augment = mixing.Augmenter(np.random.default_rng(seed), [mixing.to_int16(tone(0.5))])
    x, start = augment(tone(0.7))
    assert 0 <= start < 0.75 * RATE
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert abs(float(x.mean())) < 1e-3
    assert float(x.std()) == pytest.approx(1, abs=1e-3)


def test_speed_changes_the_length() -> None:
    assert len(mixing.speed(tone(1.0), 1.25)) == pytest.approx(0.8 * RATE, abs=2)


def test_every_word_is_a_symbol_that_the_processor_reads_back() -> None:
    text = "ONE ONE TWO NINE ZERO"
    labels = train_default.encode(text)
    frames = [symbol for label in labels for symbol in (label, label, 0)]
    assert train_default.build_processor().decode(np.array(frames)) == text


def test_spellings_cover_all_digits() -> None:
    assert set(LEARNER_SPELLINGS) == set(DIGITS)
    assert {len(words) for words in RESPELT.values()} == {len(DIGITS)}


def test_held_out_voices_are_not_trained_on() -> None:
    assert not set(train_voices()) & set(held_out_voices())


def test_clips_are_disjoint_short_and_as_the_manifest_says() -> None:
    texts: dict[str, list[str]] = {}
    for name in ("calibrate", "evaluate"):
        folder = ROOT / "calibration" / "clips" / name
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        texts[name] = [row["text"] for row in rows]
        assert all(set(text.split()) <= set(DIGITS) for text in texts[name])
        for row in rows:
            info = soundfile.info(folder / row["audio_filepath"])
            assert (info.samplerate, info.channels) == (RATE, 1)
            assert info.duration == pytest.approx(row["duration"], abs=0.01)
    assert not set(texts["calibrate"]) & set(texts["evaluate"])
    assert len(texts["calibrate"]) >= 24
    assert len(texts["evaluate"]) >= 24
