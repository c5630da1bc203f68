"""Data of no known layout: the message says what it is, and its advice works."""

import gzip
import io
import json
import tarfile
import zipfile

import pytest
from speech.layouts.examples import put, write

from stablequant.foundation.errors import InputError
from stablequant.speech import audio


def refusal(data):
    with pytest.raises(InputError) as error:
        audio.listing(data, require_text=True)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("header", "between", "named"),
    [
        ("audio,text", "commas", "audio, text"),
        (",audio,text", "commas", "(no name), audio, text"),  # pandas writes its index so
        ("file_name;text", "semicolons", "file_name, text"),
        ("LJ001-0001|Printing, in the only sense|x", "vertical bars", "LJ001-0001, Printing, in the only sense, x"),
        ("a,b,c,d,e,f,g", "commas", "a, b, c, d, e, f, ..."),
    ],
)
def test_a_table_with_other_columns(tmp_path, header, between, named):
    path = put(tmp_path / "data.csv", header, "1")
    assert refusal(path) == (
        f"{path}: a table with {between} between the columns {named}; save it as CSV with commas, and name the column "
        "with the paths file_name and the one with the transcripts text"
    )
    assert refusal(tmp_path) == refusal(path)


def test_the_advice_for_a_table_works(tmp_path):
    write(tmp_path / "a.wav")
    path = put(tmp_path / "data.csv", ",file_name,text", "0,a.wav,GO ON")
    assert [each.text for each in audio.listing(path, require_text=True).utterances] == ["GO ON"]


def test_a_table_with_tabs_and_other_columns(tmp_path):
    write(tmp_path / "a.wav")
    path = put(tmp_path / "data.tsv", "wav\twords\tspeaker", "a.wav\tGO ON\t1")
    assert "the columns wav, words, speaker; name the one with the paths path and the one with" in refusal(path)
    path = put(tmp_path / "data.tsv", "path\tsentence\tspeaker", "a.wav\tGO ON\t1")
    assert [each.text for each in audio.listing(path, require_text=True).utterances] == ["GO ON"]


@pytest.mark.parametrize("name", ["list.txt", "wavs.lst", "test.csv"])
def test_a_list_of_recordings(tmp_path, name):
    write(tmp_path / "wav/a.wav")
    path = put(tmp_path / name, "wav/a.wav", "wav/b.wav")
    assert "a list of recordings without transcripts; pass the folder that holds them" in refusal(path)


def test_a_table_of_parquet(tmp_path):
    path = tmp_path / "hub/data/train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1" + bytes(99) + b"PAR1")
    for data in (path, tmp_path / "hub"):
        assert refusal(data).startswith(f"{path}: a Parquet table, which is not read; load it with the package")


def archive(path):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "A")
    elif path.suffix == ".gz" and ".tar" not in path.name:
        path.write_bytes(gzip.compress(b"A"))
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as file:
            file.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip", "a.gz"])
def test_an_archive(tmp_path, name):
    path = archive(tmp_path / "data" / name)
    for data in (path, path.parent):
        assert refusal(data) == (f"{path}: an archive, which is not read; unpack it and pass its folder")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"no table", bytes(range(256)) * 9])
@pytest.mark.parametrize("name", ["data.csv", "data.tar", "data.parquet", "data.txt"])
def test_where_nothing_tells_the_layouts_are_listed(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = refusal(tmp_path / name)
    assert "not in a known layout; use one of these" in found or "a table with" in found


# ---- rows as other tools write them


ROWS = [
    {"audio": {"path": "a.wav", "bytes": None}, "sentence": "GO ON"},
    {"audio": "a.wav", "transcription": "GO ON"},
    {"path": "a.wav", "transcript": "GO ON", "client_id": "7"},
    {"audio_filepath": "a.wav", "audio": {"path": "b.wav"}, "text": "GO ON", "sentence": "STOP"},
    {"audio_filepath": float("nan"), "path": "a.wav", "text": None, "sentence": "GO ON", "speaker": float("nan")},
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row))
def test_lines_that_datasets_wrote(tmp_path, row):
    write(tmp_path / "a.wav")
    (found,) = audio.listing(put(tmp_path / "list.jsonl", json.dumps(row)), require_text=True).utterances
    assert (found.id, found.text, found.speaker) == ("a.wav", "GO ON", row.get("client_id"))
    assert audio.length(found) == 0.5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": {"bytes": "UklGR"}, "text": "A"}, "audio has no path; write each recording to a file"),
        ({"audio": {"path": 3}, "text": "A"}, "audio is 3, not a path"),
        ({"file": "a.wav", "text": "A"}, "no audio_filepath, only file, text; add the path"),
        ({"path": "a.wav", "text": float("nan")}, "no transcript, which is needed"),
        ({"path": "a.wav", "text": ["A", "B"]}, "text is a list; write the words as one string"),
        ({"path": float("nan"), "text": "A"}, "no audio_filepath, only path, text; add the path"),
    ],
)
def test_rows_that_are_not_read(tmp_path, row, message):
    write(tmp_path / "a.wav")
    assert f"list.jsonl:1: {message}" in refusal(put(tmp_path / "list.jsonl", json.dumps(row)))


def test_nan_is_no_transcript_where_none_is_needed(tmp_path):
    write(tmp_path / "a.wav")
    path = put(tmp_path / "list.jsonl", '{"audio_filepath": "a.wav", "text": NaN}')
    assert [each.text for each in audio.listing(path, require_text=False).utterances] == [None]


# ---- lists of which the paths are seen from elsewhere


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe as of ESPnet: lists in data/test, recordings in downloads/."""
    write(tmp_path / "recipe/downloads/a.wav")
    put(tmp_path / "recipe/data/test/wav.scp", "u1 downloads/a.wav")
    put(tmp_path / "recipe/data/test/text", "u1 GO ON")
    put(tmp_path / "recipe/data/test/list.tsv", "downloads", "a.wav\t8000")
    put(tmp_path / "recipe/data/test/list.wrd", "GO ON")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipe"


@pytest.mark.parametrize("name", ["wav.scp", "list.tsv"])
def test_paths_from_the_working_directory(recipe, monkeypatch, name):
    data = recipe / "data/test" / name
    monkeypatch.chdir(recipe)
    (found,) = audio.listing(data, require_text=True).utterances
    assert audio.length(found) == 0.5
    (recipe / "data/test/downloads").mkdir()
    write(recipe / "data/test/downloads/a.wav").write_bytes(b"beside the list is the first choice")
    (found,) = audio.listing(data, require_text=True).utterances
    with pytest.raises(InputError, match="a text file, not audio"):
        audio.length(found)


def test_from_another_directory_it_is_said_where_they_are(recipe):
    for number in range(9):
        write(recipe / f"downloads/{number}.wav")
    put(recipe / "data/many/wav.scp", *(f"u{number} downloads/{number}.wav" for number in range(9)))
    assert "(9 similar entries: " in refusal(recipe / "data/many")
    found = refusal(recipe / "data/test/wav.scp")
    assert found.endswith("; from the folder of the list it is `../../downloads/a.wav`, write that")


@pytest.mark.parametrize("name", ["dump/raw/data_wav.ark:123", "wav.ark"])
def test_an_archive_of_kaldi(tmp_path, name):
    put(tmp_path / "text", "u1 GO ON")
    found = refusal(put(tmp_path / "wav.scp", f"u1 {name}").parent)
    assert found.startswith(f"{tmp_path}/wav.scp:1: {name} is in a Kaldi archive (.ark), which is not supported;")
