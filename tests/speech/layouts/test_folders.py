"""LibriSpeech, Kaldi, and recordings with text beside them."""

import pytest
from speech.layouts.examples import kaldi, put, write

from stablequant.foundation.errors import InputError
from stablequant.speech import audio


def read(data, require_text=True):
    return audio.listing(data, require_text=require_text).utterances


def test_librispeech(tmp_path):
    folder = tmp_path / "84" / "121"
    write(folder / "84-121-0000.flac")
    write(folder / "84-121-0001.wav")
    put(folder / "84-121.trans.txt", "84-121-0000 GO DO YOU HEAR", "84-121-0001 BUT")
    first, second = read(tmp_path)
    assert (first.id, first.text, first.speaker) == ("84-121-0000", "GO DO YOU HEAR", "84")
    assert first.path == folder / "84-121-0000.flac"
    assert (second.path, second.source) == (folder / "84-121-0001.wav", f"{folder / '84-121.trans.txt'}:2")


@pytest.mark.parametrize("part", ["84", "84/121"])
def test_a_speaker_or_chapter_of_librispeech(tmp_path, part):
    write(tmp_path / "84/121/84-121-0000.flac")
    put(tmp_path / "84/121/84-121.trans.txt", "84-121-0000 GO")
    assert read(tmp_path / part) == read(tmp_path)


def test_librispeech_chapter_in_another_encoding_leaves_the_others(tmp_path):
    for chapter in ("121", "122"):
        write(tmp_path / f"84/{chapter}/84-{chapter}-0000.flac")
        put(tmp_path / f"84/{chapter}/84-{chapter}.trans.txt", f"84-{chapter}-0000 GO")
    (tmp_path / "84/121/84-121.trans.txt").write_bytes(b"84-121-0000 \xe9")
    found = audio.listing(tmp_path, require_text=True, skip_bad=True)
    assert [each.id for each in found.utterances] == ["84-122-0000"]
    assert "not UTF-8" in found.problems[0]


def test_folder_of_recordings(tmp_path):
    for name in ("b.wav", "sub/a.FLAC", "._b.wav"):
        write(tmp_path / name)
    put(tmp_path / "b.txt", "two", "lines")
    put(tmp_path / "notes.md", "not a recording")
    found = read(tmp_path, require_text=False)
    assert [(each.id, each.text) for each in found] == [("b.wav", "two lines"), ("sub/a.FLAC", None)]


def test_lists_below_a_folder_of_recordings_are_told(tmp_path, capsys):
    for name in ("one", "two"):
        write(tmp_path / name / "a.wav")
        put(tmp_path / name / "manifest.jsonl", '{"audio_filepath": "a.wav", "text": "A"}')
    assert len(read(tmp_path, require_text=False)) == 2
    expected = f"{tmp_path}: the recordings have no transcripts next to them; if they are in {tmp_path}/one/mani"
    assert capsys.readouterr().err.startswith(expected)


# ---- Kaldi


def test_kaldi_recordings_are_utterances(tmp_path):
    first, _ = read(kaldi(tmp_path))
    assert (first.id, first.path, first.text, first.speaker) == ("s1-u0", tmp_path / "wav/clip0.wav", "GO ON", "s1")
    assert first.source == f"{tmp_path / 'wav.scp'}:1"
    assert read(tmp_path / "wav.scp") == read(tmp_path)


def test_kaldi_segments(tmp_path):
    write(tmp_path / "my recording.wav")
    put(tmp_path / "wav.scp", "rec my recording.wav")
    put(tmp_path / "segments", "u1 rec 0.1 0.3", "u2 rec 0.2 -1")
    put(tmp_path / "text", "u1 GO ON", "u2")
    first, second = read(tmp_path)
    assert (first.id, first.text, first.speaker, first.offset) == ("u1", "GO ON", None, 0.1)
    assert (second.text, second.offset, second.duration) == ("", 0.2, None)
    assert [len(audio.load(each, 16000)) for each in (first, second)] == [3200, 4800]


def test_kaldi_without_text_can_calibrate(tmp_path):
    (kaldi(tmp_path) / "text").unlink()
    assert [each.text for each in read(tmp_path, require_text=False)] == [None, None]
    with pytest.raises(InputError, match=r"wav\.scp:1: no transcript"):
        read(tmp_path)


@pytest.mark.parametrize("command", ["sph2pipe -f wav a.sph |", "cat a.wav|", "| touch run"])
def test_kaldi_commands_are_not_run(tmp_path, command):
    put(kaldi(tmp_path) / "wav.scp", "s1-u0 wav/clip0.wav", f"s1-u1 {command}")
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/wav\.scp:2: a command, which is never run; write its output"
    ) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("wav.scp", ["s1-u0 wav/clip0.wav", "s1-u1"], r"wav\.scp:2: no path after the id"),
        ("wav.scp", ["s1-u0 wav/clip0.wav", "s1-u1 wav/clip1.wav", "s1-u0 x"], r"wav\.scp:3: s1-u0 appears twice"),
        ("text", ["s1-u0 GO", "s1-u1 ON", "s1-u2 NO"], "text:3: s1-u2 has no recording"),
        ("text", ["s1-u0 GO"], r"wav\.scp:2: no transcript"),
        ("segments", ["s1-u0 s1-u0 0 0.4", "s1-u1 s1-u1 0.4 0.2"], "segments:2: ends at 0.2 s and starts at 0.4 s"),
        ("segments", ["s1-u0 s1-u0 0 0.4", "s1-u1 s1-u1 zero 1"], 'segments:2: start is "zero"'),
        ("segments", ["s1-u0 s1-u0 0 0.4", "s1-u1 s1-u1 0 1 A"], "segments:2: not a segment"),
        ("segments", ["s1-u0 s1-u0 0 0.4", "s1-u1 s9 0 1"], r"segments:2: s9 is not in wav\.scp"),
    ],
)
def test_kaldi_bad_line_is_named(tmp_path, file, lines, message):
    put(kaldi(tmp_path) / file, *lines)
    with pytest.raises(InputError, match=f"^{tmp_path}/{message}"):
        read(tmp_path)


def test_linked_folders_are_followed_once(tmp_path, speech):
    """As on machines where the recordings lie on another disk; a link back up ends nowhere."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(speech)
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data")
    found = audio.listing(tmp_path / "data", require_text=True).utterances
    assert len(found) == len(list(speech.glob("*.wav")))


def test_a_librispeech_recording_without_a_line_has_no_transcript(tmp_path):
    folder = tmp_path / "84" / "121"
    for name in ("84-121-0000", "84-121-0001"):
        write(folder / f"{name}.flac")
    put(folder / "84-121.trans.txt", "84-121-0000 GO DO YOU HEAR")
    assert [each.text for each in read(tmp_path, require_text=False)] == ["GO DO YOU HEAR", None]
    with pytest.raises(InputError, match="no transcript"):
        read(tmp_path)
