"""What a folder or list names that is not read, and text in other encodings: nothing is passed over in silence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from speech.layouts.examples import librispeech, put, write

from stablequant.foundation.errors import InputError
from stablequant.speech import audio, data_summary
from stablequant.workflows import transcribe

M4A = b"\0\0\0\x20ftypM4A " + bytes(2000)
MODEL = Path(__file__).resolve().parents[3] / "calibration" / "model"


def m4a(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(M4A)
    return path


def module(*arguments):
    """As `python -m stablequant`."""
    command = [sys.executable, "-m", "stablequant", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def phones(tmp_path):
    put(write(tmp_path / "phones/a.wav").with_suffix(".txt"), "GO ON")
    put(m4a(tmp_path / "phones/b.m4a").with_suffix(".txt"), "STOP")
    m4a(tmp_path / "phones/c.m4a")
    m4a(tmp_path / "phones/sub/d.MP4")
    return tmp_path / "phones"


NOTE = ": 2 recordings are in an unsupported format (1 .m4a, 1 .mp4); convert them, for example with `ffmpeg -i c.m4a"
PROBLEM = (
    "b.m4a: MPEG-4 (AAC or another codec, as phones record), which is not supported; convert it: `ffmpeg -i b.m4a"
)


@pytest.mark.parametrize("name", ["data", "calibrate", "eval"])
def test_commands_name_what_is_not_read(phones, tmp_path, shell, name):
    arguments = {
        "data": ["data", phones],
        "calibrate": ["calibrate", MODEL, "--data", phones, "--out", tmp_path / "out", "--method", "max"],
        "eval": ["eval", MODEL, "--data", phones],
    }[name]
    done = (module if name == "data" else shell)(*arguments)
    assert done.returncode == 3
    assert f"{phones}{NOTE}" in done.stderr
    if name != "data":
        assert PROBLEM in done.stderr
    assert not (tmp_path / "out").exists()


def test_transcribe_of_a_folder_names_what_is_not_read(phones, capsys):
    assert transcribe.find([str(phones)]) == [str(phones / "a.wav")]
    told = capsys.readouterr().err
    assert (
        f"{phones}: 3 recordings are in an unsupported format (2 .m4a, 1 .mp4); convert them, for example with" in told
    )


def test_summary_has_it_among_the_problems(phones, capsys):
    found = data_summary.summary(str(phones))
    assert (found["utterances"], len(found["problems"])) == (1, 1)
    assert PROBLEM in found["problems"][0]
    assert NOTE in capsys.readouterr().err


def test_many_alike_are_one_sentence_with_their_number(tmp_path):
    for number in range(9):
        put(m4a(tmp_path / f"{number}.m4a").with_suffix(".txt"), "A")
    with pytest.raises(
        InputError, match=r"0\.m4a: MPEG-4 .*\(9 similar entries: .*0\.m4a, .*1\.m4a, .*2\.m4a, \.\.\.\)$"
    ):
        audio.decoded(audio.listing(tmp_path, require_text=True), 16000, skip_bad=False)


def test_nothing_that_is_read(tmp_path):
    m4a(tmp_path / "a.m4a")
    for read in (lambda: audio.listing(tmp_path, require_text=False), lambda: transcribe.find([str(tmp_path)])):
        with pytest.raises(
            InputError, match=r"1 recording is in an unsupported format \(1 \.m4a\); convert them, for example with"
        ):
            read()


def test_the_content_decides(tmp_path):
    write(tmp_path / "a.wav").rename(tmp_path / "a.m4a")
    assert [each.id for each in audio.listing(tmp_path, require_text=False).utterances] == ["a.m4a"]
    assert transcribe.find([str(tmp_path)]) == [str(tmp_path / "a.m4a")]


def test_librispeech_names_the_recording_that_is_there(tmp_path):
    librispeech(tmp_path)
    (tmp_path / "84/121/84-121-0001.flac").unlink()
    m4a(tmp_path / "84/121/84-121-0001.m4a")
    found = audio.listing(tmp_path, require_text=True)
    with pytest.raises(InputError, match=r"^[^\n]*84-121-0001\.m4a: MPEG-4"):
        audio.decoded(found, 16000, skip_bad=False)


def test_transcript_without_a_recording(tmp_path):
    put(write(tmp_path / "a.wav").with_suffix(".txt"), "GO ON")
    put(tmp_path / "b.txt", "STOP")
    put(tmp_path / "README.txt", "about these")
    put(tmp_path / "elsewhere/c.txt", "in a folder without recordings")
    with pytest.raises(InputError) as error:
        audio.listing(tmp_path, require_text=True)
    assert (
        str(error.value)
        == f"{tmp_path}/b.txt: a transcript without a recording; add the recording, or remove the text"
    )
    assert audio.listing(tmp_path, require_text=True, skip_bad=True).skipped == 1


# ---- encodings


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbfGO ON\r\n", "GO ON"),
        ("ÇA VA\n".encode("utf-16"), "ÇA VA"),
        (b"\xfe\xff" + "ÇA VA".encode("utf-16-be"), "ÇA VA"),
        (b"GO\rON\r", "GO ON"),
        (b"GO\r\nON", "GO ON"),
        (b"", ""),
    ],
)
def test_encodings_that_are_read(tmp_path, content, text):
    write(tmp_path / "a.wav").with_suffix(".txt").write_bytes(content)
    assert [each.text for each in audio.listing(tmp_path, require_text=True).utterances] == [text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ÇA VA".encode("latin-1"), r"a\.txt: not UTF-8 text \(byte 0\); save it as UTF-8, as with `iconv -f latin1"),
        (
            "GO".encode("utf-16-le"),
            r"a\.txt: contains a zero byte, so it is damaged, or UTF-16 without a byte order mark",
        ),
        (b"GO\0ON", r"a\.txt: contains a zero byte"),
        (b"\xff\xfeG", r"a\.txt: not UTF-8 text"),
    ],
)
def test_encodings_that_are_not(tmp_path, content, message):
    write(tmp_path / "a.wav").with_suffix(".txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        audio.listing(tmp_path, require_text=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lists_in_other_encodings(tmp_path, encoding, ends):
    write(tmp_path / "a.wav")
    lists = {
        "list.tsv": ["path\ttext", "a.wav\tÇA"],
        "metadata.csv": ["file_name,transcription", "a.wav,ÇA"],
        "list.jsonl": [json.dumps({"audio_filepath": "a.wav", "text": "ÇA"}, ensure_ascii=False)],
        "cv.tsv": ["path\tsentence", "a.wav\tÇA"],
        "sb.csv": ["ID,duration,wav,wrd", "1,0.5,a.wav,ÇA"],
    }
    for name, lines in lists.items():
        (tmp_path / name).write_bytes((ends.join(lines) + ends).encode(encoding))
        assert [each.text for each in audio.listing(tmp_path / name, require_text=True).utterances] == ["ÇA"], name


# ---- paths and fields of a manifest


def entry(folder, **fields):
    return put(folder / "list.jsonl", json.dumps({"text": "A"} | fields))


@pytest.mark.parametrize("name", ["my recording.wav", "x/%20.wav", "ü.wav", "#1.wav", "~a.wav"])
def test_odd_names(tmp_path, name):
    write(tmp_path / name)
    (each,) = audio.listing(entry(tmp_path, audio_filepath=name), require_text=True).utterances
    assert audio.length(each) == 0.5


def test_home_and_file_urls(tmp_path, monkeypatch):
    path = write(tmp_path / "my home/a.wav")
    monkeypatch.setenv("HOME", str(path.parent))
    for name in ("~/a.wav", path.as_uri(), f"file://localhost{path.as_uri()[7:]}"):
        (each,) = audio.listing(entry(tmp_path, audio_filepath=name), require_text=True).utterances
        assert each.path == path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"audio_filepath": "https://x.org/a.wav"},
            "https://x.org/a.wav is a URL, but nothing is downloaded here; download it",
        ),
        ({"audio_filepath": "s3://bucket/a.wav"}, "s3://bucket/a.wav is a URL"),
        (
            {"audio_filepath": ["a.wav", "b.wav"]},
            "audio_filepath is a list, but recordings are not joined; write one entry",
        ),
        ({"audio_filepath": "a\0.wav"}, "audio_filepath contains a zero byte"),
        ({"audio_filepath": "a.wav", "text": "A\0"}, "text contains a zero byte"),
        ({"audio_filepath": "sub\\a.wav"}, r".*; here it is `sub/a\.wav`, write that, with / between folders"),
        (
            {"audio_filepath": "C:\\data\\sub\\a.wav"},
            r".*; here it is `sub/a\.wav`, write that, with / between folders",
        ),
        ({"audio_filepath": "C:\\gone.wav"}, ".*; it is a Windows path, use / between folders"),
        ({"audio_filepath": "/mnt/no/sub/a.wav"}, r".*; here it is `sub/a\.wav`, write that"),
        ({"audio_filepath": "/mnt/no/gone.wav"}, ".*; it may be a path on another machine"),
        ({"audio_filepath": "a_1.wav", "shard_id": 0}, r"a_1\.wav is in a tar file \(a tarred data set\); unpack"),
        ({"audio_filepath": "sub/a.wav", "duration": "1.5"}, 'duration is "1.5"; write seconds'),
        ({"audio_filepath": "sub/a.wav", "duration": float("nan")}, "duration is NaN; write seconds"),
        ({"audio_filepath": "sub/a.wav", "offset": -1}, "offset is -1; write seconds"),
        ({"audio_filepath": "sub/a.wav", "text": 5}, "text is 5, not a string"),
        ({"audio_filepath": "sub/a.wav", "text": None}, "no transcript"),
    ],
)
def test_fields_have_an_answer_each(tmp_path, fields, message):
    write(tmp_path / "sub/a.wav")
    with pytest.raises(InputError, match=rf"^{tmp_path}/list\.jsonl:1: {message}"):
        audio.listing(entry(tmp_path, **fields), require_text=True)


def test_null_times_are_the_whole_recording(tmp_path):
    write(tmp_path / "a.wav")
    path = entry(tmp_path, audio_filepath="a.wav", offset=None, duration=None)
    (each,) = audio.listing(path, require_text=True).utterances
    assert (each.offset, each.duration, audio.length(each)) == (0.0, None, 0.5)
