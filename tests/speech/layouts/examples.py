"""The same two utterances in every layout, written as the tools that made the layout write it."""

import json
import sys
import types

import numpy as np
import soundfile

TEXTS = ("GO ON", "STOP")
EMPTY = "nothing"


def write(path, number=0):
    """A recording of half a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 8000), 16000)
    return path


def put(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def clips(folder, suffix=".wav"):
    return [write(folder / f"clip{number}{suffix}", number) for number in range(2)]


def nemo(folder):
    clips(folder / "wav")
    entries = ({"audio_filepath": f"wav/clip{n}.wav", "duration": 0.5, "text": text} for n, text in enumerate(TEXTS))
    put(folder / "manifest.jsonl", *map(json.dumps, entries))
    return folder


def librispeech(folder):
    for number in range(2):
        write(folder / f"84/121/84-121-000{number}.flac", number)
    put(folder / "84/121/84-121.trans.txt", *(f"84-121-000{n} {text}" for n, text in enumerate(TEXTS)))
    return folder


def same_stem(folder):
    for path, text in zip(clips(folder), TEXTS, strict=True):
        put(path.with_suffix(".txt"), text)
    return folder


def audiofolder(folder):
    clips(folder / "data")
    put(
        folder / "metadata.csv",
        "file_name,transcription",
        *(f"data/clip{n}.wav,{text}" for n, text in enumerate(TEXTS)),
    )
    return folder


def kaldi(folder):
    clips(folder / "wav")
    put(folder / "wav.scp", *(f"s1-u{n} wav/clip{n}.wav" for n in range(2)))
    put(folder / "text", *(f"s1-u{n} {text}" for n, text in enumerate(TEXTS)))
    put(folder / "utt2spk", "s1-u0 s1", "s1-u1 s1")
    return folder


def fairseq(folder):
    clips(folder / "audio/84")
    put(folder / "valid.tsv", str((folder / "audio").resolve()), *(f"84/clip{n}.wav\t8000" for n in range(2)))
    put(folder / "valid.wrd", *TEXTS)
    put(folder / "valid.ltr", *(" ".join(text.replace(" ", "|")) + " |" for text in TEXTS))
    return folder / "valid.tsv"


def speechbrain(folder):
    clips(folder)
    rows = (f"u{n},0.5,clip{n}.wav,84,{text}" for n, text in enumerate(TEXTS))
    return put(folder / "test.csv", "ID,duration,wav,spk_id,wrd", *rows)


def common_voice(folder):
    clips(folder / "clips", ".mp3")
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
    rows = (f"c0ffee\tclip{n}.mp3\t{text}\t2\t0\t\t\t\ten\t" for n, text in enumerate(TEXTS))
    return put(folder / "test.tsv", header, *rows)


def two_column(folder):
    clips(folder)
    return put(folder / "list.tsv", *(f"clip{n}.wav\t{text}" for n, text in enumerate(TEXTS)))


class Audio:
    """Stands for `datasets.Audio`."""

    def __init__(self, decode=True):
        self.decode = decode


class Rows(list):
    """Stands for `datasets.Dataset`: as much of it as is used."""

    features = {"audio": Audio(), "text": "string", "speaker_id": "int64"}  # noqa: RUF012

    def cast_column(self, name, kind):
        assert isinstance(self.features[name], Audio)
        assert not kind.decode
        return self

    def remove_columns(self, names):
        return [{key: row[key] for key in row if key not in names} for row in self]


def saved_dataset(folder, monkeypatch, rows=None):
    """The files that tell it from a folder, and a module in place of the package that reads them."""
    contents = [path.read_bytes() for path in clips(folder.with_name(f"{folder.name}-sources"))]
    rows = rows or [
        {"audio": {"bytes": content, "path": "clip.wav"}, "text": text, "speaker_id": 84}
        for content, text in zip(contents, TEXTS, strict=True)
    ]
    put(folder / "dataset_info.json", "{}")
    put(folder / "state.json", "{}")
    (folder / "data-00000-of-00001.arrow").touch()
    fake = types.ModuleType("datasets")
    fake.Audio = Audio
    fake.load_from_disk = lambda path: Rows(rows)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return folder


class Stdin:
    def __init__(self, content):
        self.buffer = types.SimpleNamespace(read=lambda: content)


def stdin(folder, monkeypatch):
    """The lines of a manifest whose paths are seen from the current folder."""
    content = (nemo(folder) / "manifest.jsonl").read_bytes()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    return "-"


NEED_MONKEYPATCH = {"saved_dataset": saved_dataset, "stdin": stdin}
PLAIN = {
    each.__name__: each
    for each in (
        nemo,
        librispeech,
        same_stem,
        audiofolder,
        kaldi,
        fairseq,
        speechbrain,
        common_voice,
        two_column,
    )
}


def make(name, folder, monkeypatch):
    """The data of a layout, to be given as DATA."""
    return NEED_MONKEYPATCH[name](folder, monkeypatch) if name in NEED_MONKEYPATCH else PLAIN[name](folder)
