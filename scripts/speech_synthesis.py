"""Spoken digits from the free synthesisers espeak-ng, flite and festival, in many voices and accents.

Nothing is downloaded: the three programs must be installed (Debian: ``apt-get install espeak-ng flite festival
festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts``). A program that is missing is left out with a warning.
"""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

RATE = 16000
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")

ENGLISH = ("en-us", "en-gb", "en-gb-x-rp", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-us-nyc")
# Voices of other languages that switch to English sounds for Latin letters, each with its own tones and rhythm.
FOREIGN = ("cmn", "yue", "hi", "ta", "ko", "th", "ru", "ar")
# Voices of other languages that need the English digits spelt in their own letters: a strong accent.
RESPELT: dict[str, tuple[str, ...]] = {
    "de": ("siero", "uann", "tuh", "trie", "for", "feif", "ßix", "ßewen", "eht", "nein"),
    "fr-fr": ("ziro", "ouane", "tou", "sri", "for", "faïve", "sixe", "sévenne", "éïte", "naïne"),
    "es": ("siro", "uan", "tu", "tri", "for", "faif", "six", "seven", "eit", "nain"),
    "it": ("ziro", "uan", "tu", "tri", "for", "faiv", "sics", "seven", "eit", "nain"),
    "pl": ("ziroł", "łan", "tu", "fri", "for", "fajw", "siks", "sewen", "ejt", "najn"),
    "id": ("ziro", "wan", "tu", "tri", "for", "faif", "siks", "seven", "eit", "nain"),
    "ro": ("ziro", "uan", "tu", "tri", "for", "faiv", "sics", "seven", "eit", "nain"),
}
_VARIANT_NAMES = (
    "m1 m2 m3 m4 m5 m6 m7 f1 f2 f3 f4 klatt klatt2 klatt3 klatt4 adam Alex Alicia Andrea Annie antonio aunty belinda "
    "benjamin boris caleb david Denis Diogo ed edward Gene Henrique Hugo Jacky john Lee linda Marcelo Marco max "
    "michael michel miguel Nguyen pablo paul pedro quincy rob robert sandro shelby steph travis victor Tweaky "
    "anika grandpa grandma croak"
)
VARIANTS = tuple(_VARIANT_NAMES.split())
HELD_OUT_VARIANTS = ("m8", "f5", "Andy", "steph2", "mike", "norbert")

# Phoneme spellings (espeak-ng, English voices) of the digits as learners with a Chinese first language may say them.
LEARNER_SPELLINGS: dict[str, tuple[str, ...]] = {
    "ZERO": ("z'i:roU", "z'Iroo", "dz'i:loU", "z'i:loU", "dZ'i:roU", "s'i:roU", "z'I@roU", "z'i:wo:"),
    "ONE": ("w'an", "w'aN", "w'Vn", "w'0n", "w'VN", "w'Vn@", "w'a:"),
    "TWO": ("t'u:", "t'oU", "tS'u:", "t'U", "t'u:@"),
    "THREE": ("s'ri:", "sw'i:", "T'li:", "s'li:", "Tw'i:", "f'ri:", "T'ri:", "s'i:", "s@r'i:", "tr'i:"),
    "FOUR": ("f'o:", "f'o@r", "f'oU", "f'0", "f'u:@", "fU'o:"),
    "FIVE": ("f'aIf", "f'aI", "f'aIv@", "f'aIw", "f'aIf@", "f'a:v", "f'aIU"),
    "SIX": ("s'i:ks", "s'Iks", "s'Ik@s", "s'Iks@", "s'i:s", "s'Ek@s", "S'Iks"),
    "SEVEN": ("s'Ew@n", "s'Ef@n", "s'Even", "s'EvEn", "s'aIv@n", "s'Ev@", "s'eI.w@n", "s'EvIn"),
    "EIGHT": ("'eI", "'eIt@", "'EIt", "'Et", "'eIts", "'eItS", "'e:t"),
    "NINE": ("n'aI", "n'a:n", "l'aIn", "n'aIn@", "n'aIN", "n'aEn", "l'aI"),
}


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: the program, its voice name, and whether digits are spelt as a learner says them."""

    engine: str
    name: str
    learner: bool = False

    @property
    def label(self) -> str:
        """A short name for manifests, such as ``espeak-ng/en-us+m3``."""
        return f"{self.engine}/{self.name}" + ("/learner" if self.learner else "")


@dataclass(frozen=True)
class Style:
    """How a voice speaks: pitch (0 low .. 1 high), tempo (1 is the voice's own) and a pause between words or none."""

    pitch: float = 0.5
    tempo: float = 1.0
    pauses: bool = False


def draw_style(rng: np.random.Generator) -> Style:
    """A random way of speaking."""
    return Style(float(rng.uniform(0.15, 0.95)), float(rng.uniform(0.65, 1.2)), bool(rng.random() < 0.35))


def train_voices() -> list[Voice]:
    """The voices used for training: no voice of `held_out_voices` is among them."""
    voices = [Voice("espeak-ng", f"{ENGLISH[i % len(ENGLISH)]}+{v}") for i, v in enumerate(VARIANTS)]
    voices += [Voice("espeak-ng", f"en-us+{v}") for v in VARIANTS]
    voices += [Voice("espeak-ng", language) for language in ENGLISH]
    voices += [Voice("espeak-ng", f"en-us+{v}", learner=True) for v in VARIANTS]
    voices += [Voice("espeak-ng", f"cmn+{v}") for v in VARIANTS[:20]]
    for i, language in enumerate((*FOREIGN, *RESPELT)):
        voices += [Voice("espeak-ng", language), Voice("espeak-ng", f"{language}+{VARIANTS[(3 * i + 7) % 40]}")]
    voices += [Voice("flite", name) for name in ("kal16", "kal", "awb", "slt")] * 6
    voices += [Voice("festival", name) for name in ("kal_diphone", "cmu_us_slt_arctic_hts")] * 6
    return voices


def held_out_voices() -> list[Voice]:
    """Voices that are never trained on; some of the evaluation clips are made with them."""
    languages = ("en-gb-x-gbcwmd", "en-gb-x-gbcwmd", "en-us", "en-gb", "en-us", "en-gb")
    voices = [Voice("espeak-ng", f"{lang}+{v}") for lang, v in zip(languages, HELD_OUT_VARIANTS, strict=True)]
    return [*voices, Voice("flite", "rms"), Voice("festival", "ked_diphone")]


def installed(voices: list[Voice]) -> list[Voice]:
    """Those of `voices` whose program is on this machine; a warning names the programs that are not."""
    programs = {"espeak-ng": "espeak-ng", "flite": "flite", "festival": "festival"}
    missing = sorted({v.engine for v in voices if shutil.which(programs[v.engine]) is None})
    if missing:
        warnings.warn(f"speech synthesisers not installed: {', '.join(missing)}", stacklevel=2)
    return [v for v in voices if v.engine not in missing]


def synthesise(voice: Voice, words: list[str], style: Style, rng: np.random.Generator) -> np.ndarray:
    """`words` (of `DIGITS`) spoken by `voice`: float32 mono at 16 kHz, outer silence cut down."""
    speak = {"espeak-ng": _espeak, "flite": _flite, "festival": _festival}[voice.engine]
    samples, rate = speak(voice, words, style, rng)
    return trim(resample(samples, rate))


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """`samples` of `rate` Hz at 16 kHz, float32."""
    if rate == RATE:
        return samples.astype(np.float32)
    common = math.gcd(rate, RATE)
    return np.asarray(resample_poly(samples, RATE // common, rate // common), dtype=np.float32)


def trim(samples: np.ndarray, keep: float = 0.04) -> np.ndarray:
    """Cut silence (below 1.5 % of the peak) at both ends, leaving `keep` seconds of it."""
    loud = np.flatnonzero(np.abs(samples) > 0.015 * np.abs(samples).max(initial=1e-9))
    if not loud.size:
        return samples
    margin = int(keep * RATE)
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


def _espeak(voice: Voice, words: list[str], style: Style, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    respelt = RESPELT.get(voice.name.split("+")[0])
    spoken = [respelt[DIGITS.index(w)] if respelt else w.lower() for w in words]
    if voice.learner:
        spoken = [f"[[{rng.choice(LEARNER_SPELLINGS[w])}]]" if rng.random() < 0.7 else w.lower() for w in words]
    text = (", " if style.pauses else " ").join(spoken)
    pitch, speed = str(round(99 * style.pitch)), str(round(165 * style.tempo))
    command = ["espeak-ng", "-v", voice.name, "-p", pitch, "-s", speed, "--stdout", text]
    return _read(subprocess.run(command, capture_output=True, check=True).stdout)


def _flite(voice: Voice, words: list[str], style: Style, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    text = (", " if style.pauses else " ").join(w.lower() for w in words)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.wav")
        settings = {"duration_stretch": 1 / style.tempo}
        if voice.name in ("kal", "kal16"):
            settings["int_f0_target_mean"] = 80 + 120 * style.pitch
        options = [part for key, value in settings.items() for part in ("--setf", f"{key}={value:.3f}")]
        subprocess.run(["flite", "-voice", voice.name, *options, "-t", text, "-o", str(out)], check=True)
        return _read(out.read_bytes())


def _festival(voice: Voice, words: list[str], style: Style, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    text = (", " if style.pauses else " ").join(w.lower() for w in words)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.wav")
        scheme = (
            f"(voice_{voice.name})\n(Parameter.set 'Duration_Stretch {1 / style.tempo:.3f})\n"
            f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{out}" \'riff)\n'
        )
        script = Path(folder, "say.scm")
        script.write_text(scheme, encoding="ascii")
        subprocess.run(["festival", "-b", str(script)], check=True, capture_output=True)
        return _read(out.read_bytes())


def _read(wav: bytes) -> tuple[np.ndarray, int]:
    # espeak-ng writes a data length of 0x7ffff000 to a pipe: read what is there
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
    return samples[:, 0], rate
