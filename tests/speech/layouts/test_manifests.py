"""JSON lines: NeMo manifests, standard input, Hugging Face's metadata."""

import json
import sys

import pytest
from speech.layouts.examples import Stdin, put, write

from stablequant.foundation.errors import InputError
from stablequant.speech import audio
from stablequant.speech.audio import Utterance


def read(data, require_text=True):
    return audio.listing(data, require_text=require_text).utterances


def test_nemo_manifest(tmp_path):
    write(tmp_path / "a/1.wav")
    write(tmp_path / "2.wav")
    entry = {"audio_filepath": "a/1.wav", "text": "ÇA VA", "duration": 0.2, "offset": 0.1, "speaker": 7}
    path = put(tmp_path / "manifest.jsonl", json.dumps(entry), "", json.dumps({"audio_filepath": "2.wav", "text": ""}))
    first, second = read(path)
    assert first == Utterance("a/1.wav@0.1", tmp_path / "a/1.wav", "ÇA VA", "7", 0.1, 0.2, f"{path}:1")
    assert second == Utterance("2.wav", tmp_path / "2.wav", "", None, 0.0, None, f"{path}:3")
    assert read(tmp_path) == [first, second], "the folder of a manifest is the manifest"
    assert len(audio.load(first, 16000)) == 3200


def test_which_of_several_manifests_is_read_is_told(tmp_path, capsys):
    write(tmp_path / "a.wav")
    for name in ("manifest.jsonl", "digits.jsonl"):
        path = put(tmp_path / name, json.dumps({"audio_filepath": "a.wav", "text": name}))
    assert [each.text for each in read(tmp_path)] == ["manifest.jsonl"]
    told = f"{tmp_path}: reading manifest.jsonl, not digits.jsonl; to read another, pass the file itself\n"
    assert capsys.readouterr().err == told
    assert [each.text for each in read(path)] == ["digits.jsonl"]
    assert capsys.readouterr().err == ""


def test_manifest_wins_over_the_tree_that_it_lies_in(tmp_path):
    put(write(tmp_path / "84/121/84-121-0000.flac").parent / "84-121.trans.txt", "84-121-0000 GO")
    put(tmp_path / "manifest.jsonl", '{"audio_filepath": "84/121/84-121-0000.flac", "text": "ON"}')
    assert [each.text for each in read(tmp_path)] == ["ON"]


def test_two_kinds_of_list_in_one_folder_are_not_guessed_between(tmp_path):
    write(tmp_path / "a.wav")
    path = put(tmp_path / "manifest.jsonl", '{"audio_filepath": "a.wav", "text": "A"}')
    put(tmp_path / "metadata.csv", "file_name,text", "a.wav,B")
    with pytest.raises(InputError, match=r"fits more than one layout: a Hugging Face .* and a NeMo .*; pass the list"):
        read(tmp_path)
    assert [each.text for each in read(path)] == ["A"]


def test_standard_input_is_numbered_and_seen_from_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path / "a.wav")
    lines = [{"audio_filepath": "a.wav", "text": "A"}, {"audio_filepath": str(tmp_path / "a.wav"), "text": "B"}]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Stdin("\n".join(map(json.dumps, lines)).encode()))
    assert [(each.text, each.source) for each in read("-")] == [("A", "standard input:1"), ("B", "standard input:2")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "-: lists no utterances"),
        (b"\n{}", "^standard input:2: no audio_filepath"),
        (b'{"text": "\xe9"}', "^standard input: not UTF-8"),
    ],
)
def test_standard_input_that_cannot_be_used(monkeypatch, content, message):
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    with pytest.raises(InputError, match=message):
        read("-")


@pytest.mark.parametrize("key", ["transcription", "text", "sentence"])
def test_audiofolder_of_json_lines(tmp_path, key):
    path = tmp_path / "metadata.jsonl"
    for name in ("0001.mp3", "sub/0002.mp3"):
        write(tmp_path / name)
    rows = [{"file_name": "0001.mp3", key: "GO", "speaker_id": 3}, {"file_name": "sub/0002.mp3", key: None}]
    put(path, *map(json.dumps, rows))
    first, second = read(tmp_path, require_text=False)
    assert first == Utterance("0001.mp3", tmp_path / "0001.mp3", "GO", "3", 0.0, None, f"{path}:1")
    assert (second.path, second.text) == (tmp_path / "sub/0002.mp3", None)
    assert read(path, require_text=False) == [first, second]


def test_audiofolder_of_csv(tmp_path):
    write(tmp_path / "train/a b.wav")
    write(tmp_path / "train/c.wav")
    path = put(
        tmp_path / "train/metadata.csv",
        '"file_name","transcription","speaker"',
        '"a b.wav","GO, ""ON""',
        'AND ON",84',
        "c.wav,,",
        "",
    )
    first, second = read(tmp_path)
    text = 'GO, "ON"\nAND ON'
    assert first == Utterance("a b.wav", tmp_path / "train/a b.wav", text, "84", 0.0, None, f"{path}:2")
    assert (second.text, second.speaker, second.source) == ("", None, f"{path}:4")


def test_splits_of_an_audiofolder_are_not_mixed(tmp_path):
    for split in ("test", "train"):
        write(tmp_path / split / "a.wav")
        put(tmp_path / split / "metadata.csv", "file_name,text", "a.wav,A")
    with pytest.raises(
        InputError, match=r"contains 2 lists \(test/metadata.csv, train/metadata.csv\); pass one of them"
    ):
        read(tmp_path)
    assert len(read(tmp_path / "test")) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav", ":3: has 1 cells, but the header has 2; write one for each column"),
        ("a.wav,GO, ON", ":3: has 3 cells"),
        (",GO", ":3: no file_name"),
        ('a.wav,"GO', r":3: not CSV \(unexpected end of data\)"),
        ('a.wav,"GO" ON', ":3: not CSV"),
    ],
)
def test_bad_line_of_csv_is_named(tmp_path, line, message):
    write(tmp_path / "a.wav")
    path = put(tmp_path / "metadata.csv", "file_name,text", "a.wav,A", line)
    with pytest.raises(InputError, match=f"^{path}{message}"):
        read(path)


def test_bad_lines_of_csv_leave_the_others(tmp_path):
    write(tmp_path / "a.wav")
    put(tmp_path / "metadata.csv", "file_name,text", 'a.wav,"GO" ON', "a.wav", "a.wav,A", "no.wav,B", "a.wav,C")
    found = audio.listing(tmp_path, require_text=True, skip_bad=True)
    assert [each.text for each in found.utterances] == ["A", "C"]
    assert [problem.partition("csv:")[2][:2] for problem in found.problems] == ["2:", "3:", "5:"]
