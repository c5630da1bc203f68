"""Training material for `train_default.py`: word banks, spliced digit strings and waveform augmentation."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from speech_synthesis import DIGITS, RATE, Voice, draw_style, resample, synthesise, trim


@dataclass(frozen=True)
class Utterance:
    """A recording (int16, 16 kHz), its words and its speaker."""

    samples: np.ndarray
    words: tuple[str, ...]
    speaker: str


@dataclass(frozen=True)
class Spliced:
    """A string put together from single words, whose places (first and last sample) are therefore known."""

    samples: np.ndarray
    words: tuple[str, ...]
    spans: list[tuple[int, int]]

    def respeed(self, factor: float) -> Spliced:
        """Played `factor` times faster."""
        spans = [(int(a / factor), int(b / factor)) for a, b in self.spans]
        return Spliced(speed(self.samples, factor), self.words, spans)


@dataclass
class WordBank:
    """Single-word recordings: speaker -> word -> recordings."""

    speakers: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)

    def add(self, speaker: str, word: str, samples: np.ndarray) -> None:
        """Store one recording of `word`."""
        self.speakers.setdefault(speaker, {}).setdefault(word, []).append(samples)

    def draw(self, rng: np.random.Generator, speaker: str) -> tuple[str, np.ndarray]:
        """A random word of `speaker` (words equally likely) and one of its recordings as float32."""
        words = self.speakers[speaker]
        word = list(words)[rng.integers(len(words))]
        takes = words[word]
        return word, takes[rng.integers(len(takes))].astype(np.float32) / 32768


def read_manifest(manifest: Path) -> list[Utterance]:
    """All utterances of a NeMo manifest, as 16 kHz int16."""
    utterances = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples, rate = soundfile.read(manifest.parent / row["audio_filepath"], dtype="float32", always_2d=True)
        mono = to_int16(resample(samples.mean(axis=1), rate))
        utterances.append(Utterance(mono, tuple(row["text"].split()), str(row.get("speaker", ""))))
    return utterances


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples as int16, scaled down if they would clip."""
    return np.round(32767 * samples / max(1.0, float(np.abs(samples).max(initial=0)))).astype(np.int16)


def single_words(utterances: list[Utterance]) -> WordBank:
    """A bank of the utterances that hold one digit."""
    bank = WordBank()
    for u in utterances:
        if len(u.words) == 1 and u.words[0] in DIGITS:
            bank.add(u.speaker, u.words[0], u.samples)
    return bank


def synthetic_utterances(voices: list[Voice], number: int, rng: np.random.Generator) -> list[Utterance]:
    """`number` digit strings, a third of them single words, in random voices and styles."""
    utterances = []
    for _ in range(number):
        voice = voices[rng.integers(len(voices))]
        count = 1 if rng.random() < 0.34 else int(rng.integers(2, 8))
        words = [DIGITS[i] for i in rng.integers(10, size=count)]
        samples = synthesise(voice, words, draw_style(rng), rng)
        if 0.2 * len(words) * RATE < len(samples) + 0.1 * RATE:
            utterances.append(Utterance(to_int16(samples), tuple(words), voice.label))
    return utterances


def align(log_probs: np.ndarray, labels: list[int], blank: int = 0) -> list[tuple[int, int]]:
    """First and last frame of each label on the best CTC path (Viterbi) through `log_probs` [frames, classes]."""
    states = [blank] + [x for label in labels for x in (label, blank)]
    frames, number = len(log_probs), len(states)
    skip = np.array([s >= 2 and states[s] != blank and states[s] != states[s - 2] for s in range(number)])
    score = np.full(number, -np.inf)
    score[:2] = log_probs[0, states[:2]]
    back = np.zeros((frames, number), dtype=np.int64)
    for t in range(1, frames):
        options = np.stack([score, np.roll(score, 1), np.where(skip, np.roll(score, 2), -np.inf)])
        options[1, 0] = -np.inf
        back[t] = options.argmax(axis=0)
        score = options.max(axis=0) + log_probs[t, states]
    state = number - 1 if score[-1] >= score[-2] else number - 2
    path = [state]
    for t in range(frames - 1, 0, -1):
        state -= int(back[t, state])
        path.append(state)
    where = np.array(path[::-1])
    return [(int(f[0]), int(f[-1])) for f in (np.flatnonzero(where == 2 * i + 1) for i in range(len(labels)))]


def cut_words(utterance: Utterance, spans: list[tuple[int, int]]) -> list[tuple[str, np.ndarray]]:
    """Cut an utterance into its words: between two words at the quietest point, outside them at the edges.

    `spans` holds first and last sample of the aligned letters of each word.
    """
    samples = utterance.samples.astype(np.float32) / 32768
    window = np.ones(RATE // 50) / (RATE // 50)
    energy = np.convolve(samples**2, window, mode="same")
    cuts = [0]
    for (_, end), (start, _) in itertools.pairwise(spans):
        low, high = min(end, start - 1), max(end + 1, start)
        cuts.append(low + int(energy[low:high].argmin()))
    cuts.append(len(samples))
    pieces = []
    for word, start, end in zip(utterance.words, cuts[:-1], cuts[1:], strict=True):
        piece = trim(samples[start:end])
        if 0.12 * RATE < len(piece) < 1.6 * RATE:
            pieces.append((word, to_int16(piece)))
    return pieces


def speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times faster: pitch and formants rise too (linear interpolation)."""
    where = np.arange(0, len(samples) - 1, factor)
    return np.interp(where, np.arange(len(samples)), samples).astype(np.float32)


def splice(bank: WordBank, speaker: str, count: int, rng: np.random.Generator) -> Spliced:
    """A string of `count` words of one speaker with random pauses (or hardly any) and word levels between."""
    base = rng.uniform(0.85, 1.18)
    parts: list[np.ndarray] = []
    words, spans, position = [], [], 0
    for _ in range(count):
        word, samples = bank.draw(rng, speaker)
        samples = fade(speed(samples, base * rng.uniform(0.95, 1.05)))
        level = float(np.sqrt(np.mean(samples**2))) + 1e-4
        parts += [samples * (0.1 * 10 ** rng.uniform(-0.2, 0.2) / level), np.zeros(_pause(rng), np.float32)]
        words.append(word)
        spans.append((position, position + len(samples)))
        position += len(samples) + len(parts[-1])
    return Spliced(np.concatenate(parts[:-1]), tuple(words), spans)


def _pause(rng: np.random.Generator) -> int:
    return int(RATE * (rng.uniform(0, 0.04) if rng.random() < 0.3 else rng.uniform(0.02, 0.3)))


def fade(samples: np.ndarray, seconds: float = 0.008) -> np.ndarray:
    """Short linear fades at both ends."""
    n = min(int(seconds * RATE), len(samples) // 2)
    ramp = np.linspace(0, 1, n, dtype=np.float32)
    out = samples.copy()
    out[:n] *= ramp
    out[len(out) - n :] *= ramp[::-1]
    return out


class Augmenter:
    """Room, channel and noise: all filters in one pass through the Fourier domain."""

    def __init__(self, rng: np.random.Generator, babble: list[np.ndarray], strength: float = 1.0) -> None:
        """`babble`: recordings (int16) that may be mixed in as background talk, softly."""
        self.rng, self.babble, self.strength = rng, babble, strength

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray, int]:
        """One random variant of `samples` (float32), zero mean and unit variance, and the silence put in front."""
        rng = self.rng
        edge = [int(RATE * rng.uniform(0, 0.25)), int(RATE * rng.uniform(0.02, 0.25))]
        x = np.pad(samples, (edge[0], edge[1]))
        x = self._filter(x)
        x = x + self._noise(len(x), float(x.std()) + 1e-5)
        if rng.random() < 0.06 * self.strength:
            peak = float(np.abs(x).max()) * rng.uniform(0.25, 0.7)
            x = np.clip(x, -peak, peak)
        x, before = self._silence(x)
        return ((x - x.mean()) / (x.std() + 1e-7)).astype(np.float32), before + edge[0]

    def _silence(self, x: np.ndarray) -> tuple[np.ndarray, int]:
        """Half of the time digital silence, or nearly so, at the ends, as players and synthesisers leave it."""
        rng = self.rng
        if rng.random() < 0.5:
            return x, 0
        before, after = (int(RATE * rng.uniform(0, 0.5)) if rng.random() < 0.7 else 0 for _ in range(2))
        level = float(x.std()) * 10 ** (-rng.uniform(60, 90) / 20) if rng.random() < 0.5 else 0.0
        padded = np.pad(x, (before, after))
        return (padded + level * rng.standard_normal(len(padded))).astype(np.float32), before

    def _filter(self, x: np.ndarray) -> np.ndarray:
        rng, size = self.rng, _fast_length(len(x) + RATE // 4)
        spectrum = np.fft.rfft(x, size)
        spectrum *= self._channel(len(spectrum))
        if rng.random() < 0.4 * self.strength:
            spectrum *= np.fft.rfft(self._room(), size)
        return np.fft.irfft(spectrum, size)[: len(x)].astype(np.float32)

    def _channel(self, bins: int) -> np.ndarray:
        rng, hz = self.rng, np.linspace(0, RATE / 2, bins)
        anchors = np.array([0, 200, 500, 1000, 1800, 3000, 4500, 6500, 8000])
        decibels = np.interp(hz, anchors, rng.normal(0, 4.0 * self.strength, len(anchors)))
        decibels += rng.uniform(-2.5, 2.5) * self.strength * np.log2(np.maximum(hz, 125) / 1000)
        kind = rng.random() / max(self.strength, 1e-3)
        if kind < 0.12:
            decibels += _band(hz, 300, 3400)
        elif kind < 0.4:
            decibels += _band(hz, 0, rng.uniform(3400, 4100))
        elif kind < 0.55:
            decibels += _band(hz, rng.uniform(0, 200), rng.uniform(3500, 7500))
        return 10 ** (decibels / 20)

    def _room(self) -> np.ndarray:
        rng = self.rng
        decay = rng.uniform(0.05, 0.45)
        response = np.zeros(RATE // 4)
        time = np.arange(len(response)) / RATE
        start = int(rng.uniform(0.001, 0.012) * RATE)
        tail = rng.normal(size=len(response)) * 10 ** (-3 * time / decay)
        tail[:start] = 0
        response += tail * (10 ** rng.uniform(-1.3, -0.35) / np.sqrt((tail**2).sum() + 1e-9))
        response[0] = 1
        return response

    def _noise(self, length: int, level: float) -> np.ndarray:
        rng = self.rng
        ratio = rng.uniform(25 - 19 * self.strength, 45) if rng.random() < 0.8 else rng.uniform(35, 60)
        if self.babble and rng.random() < 0.15 * self.strength:
            talk = self.babble[rng.integers(len(self.babble))].astype(np.float32)
            noise = np.asarray(np.resize(talk, length))
            ratio = max(ratio, 14.0)
        else:
            size = _fast_length(length)
            spectrum = np.fft.rfft(rng.standard_normal(size).astype(np.float32))
            spectrum *= np.maximum(np.arange(len(spectrum)), 20) ** -rng.uniform(0, 1.1)
            noise = np.fft.irfft(spectrum, size)[:length].astype(np.float32)
        return (noise * (level * 10 ** (-ratio / 20) / (noise.std() + 1e-9))).astype(np.float32)


def _band(hz: np.ndarray, low: float, high: float) -> np.ndarray:
    octaves_above = np.log2(np.maximum(hz, 1) / high)
    octaves_below = np.log2(max(low, 1) / np.maximum(hz, 1)) if low > 0 else np.zeros_like(hz)
    return -np.minimum(60, 90 * np.maximum(octaves_above, 0)) - np.minimum(40, 30 * np.maximum(octaves_below, 0))


def _fast_length(n: int) -> int:
    """The next multiple of 4096: lengths with small factors transform fast."""
    return -(-n // 4096) * 4096
