"""fairseq, SpeechBrain, Common Voice and two columns."""

import pytest
from speech.layouts.examples import clips, put, write

from stablequant.foundation.errors import InputError
from stablequant.speech import audio
from stablequant.speech.audio import Utterance


def read(data, require_text=True):
    return audio.listing(data, require_text=require_text).utterances


# ---- fairseq


@pytest.mark.parametrize("root", ["audio", "/"])
def test_fairseq_root_is_absolute_or_beside_the_list(tmp_path, root):
    recording = write(tmp_path / "audio/84/a.flac")
    name = recording.relative_to(tmp_path / root).as_posix()
    path = put(tmp_path / "test.tsv", root, f"{name}\t8000")
    put(tmp_path / "test.wrd", "GO  ON")
    assert read(tmp_path) == [Utterance(name, recording, "GO  ON", None, 0.0, None, f"{path}:2")]


def test_fairseq_letters_and_an_empty_transcript(tmp_path):
    clips(tmp_path)
    put(tmp_path / "test.tsv", ".", "clip0.wav\t8000", "clip1.wav\t8000", "clip0.wav\t8000")
    put(tmp_path / "test.ltr", "G O | O N |", "", "S T O P |")
    assert [each.text for each in read(tmp_path / "test.tsv")] == ["GO ON", "", "STOP"]


def test_fairseq_without_labels_can_calibrate(tmp_path):
    clips(tmp_path)
    put(tmp_path / "train.tsv", ".", "clip0.wav\t8000")
    assert [each.text for each in read(tmp_path / "train.tsv", require_text=False)] == [None]


def test_fairseq_labels_must_be_as_many(tmp_path):
    clips(tmp_path)
    put(tmp_path / "test.tsv", ".", "clip0.wav\t8000", "clip1.wav\t8000")
    put(tmp_path / "test.wrd", "GO")
    with pytest.raises(InputError, match=r"test\.wrd: has 1 lines for 2 recordings in .*test\.tsv; make them agree"):
        read(tmp_path / "test.tsv")


@pytest.mark.parametrize("line", ["clip0.wav", "clip0.wav\tmany", "", "\t8000"])
def test_fairseq_bad_line_is_named_and_keeps_its_label(tmp_path, line):
    clips(tmp_path)
    path = put(tmp_path / "test.tsv", ".", "clip0.wav\t8000", line, "clip1.wav\t8000")
    put(tmp_path / "test.wrd", "GO", "WRONG", "STOP")
    found = audio.listing(path, require_text=True, skip_bad=True)
    assert found.problems == [
        f"{path}:3: not a path, a tab and a number of samples; correct or remove it and its label"
    ]
    assert [each.text for each in found.utterances] == ["GO", "STOP"]


# ---- SpeechBrain


def test_speechbrain_with_blanks_after_commas(tmp_path):
    write(tmp_path / "a.wav")
    path = put(tmp_path / "dev.csv", "ID, duration, wav, spk_id, wrd", "", "u1, 0.5, a.wav, s84, GO ON")
    assert read(path) == [Utterance("u1", tmp_path / "a.wav", "GO ON", "s84", 0.0, None, f"{path}:3")]
    assert read(tmp_path) == read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u,0.5,$data_root/a.wav,,A", r"the path \$data_root/a\.wav contains a variable"),
        ("u,long,a.wav,,A", 'duration is "long"; write seconds'),
        ("u,-1,a.wav,,A", "duration is -1.0; write seconds"),
        ("u,0.5,,,A", "no wav"),
        ("u,0.5,a.wav,1600,A", "a segment in samples"),
        ("u,0.5,a.wav,A", "has 4 cells, but the header has 5"),
    ],
)
def test_speechbrain_bad_line_is_named(tmp_path, line, message):
    path = put(tmp_path / "dev.csv", "ID,duration,wav,start,wrd", line)
    with pytest.raises(InputError, match=f"^{path}:2: {message}"):
        read(path)


# ---- Common Voice

HEADER = "client_id\tpath\tsentence\tup_votes"


def test_common_voice(tmp_path):
    write(tmp_path / "clips/cv_1.mp3")
    path = put(tmp_path / "test.tsv", HEADER, 'c0ffee\tcv_1.mp3\t"Go on", she said\t2', "beef\tcv_1\tStop\t0")
    first, second = read(path)
    text = '"Go on", she said'
    assert first == Utterance("cv_1.mp3", tmp_path / "clips/cv_1.mp3", text, "c0ffee", 0.0, None, f"{path}:2")
    assert (second.path, second.speaker) == (first.path, "beef")


def test_splits_of_common_voice_are_not_mixed(tmp_path):
    write(tmp_path / "clips/a.mp3")
    for split in ("dev", "test"):
        put(tmp_path / f"{split}.tsv", HEADER, "c\ta.mp3\tGo\t2")
    put(tmp_path / "clip_durations.tsv", "clip\tduration[ms]", "a.mp3\t500")
    with pytest.raises(InputError, match=r"contains 2 lists \(dev\.tsv, test\.tsv\); pass one of them"):
        read(tmp_path)


def test_common_voice_bad_lines_are_named(tmp_path):
    write(tmp_path / "clips/a.mp3")
    path = put(tmp_path / "test.tsv", HEADER, "c\ta.mp3\tGo", "c\t\tGo\t2")
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).splitlines() == [
        f"{path}:2: has 3 cells, but the header has 4; write one for each column",
        f"{path}:3: no path; add the path of the recording",
    ]


# ---- two columns


def test_two_columns(tmp_path):
    clips(tmp_path / "sub")
    path = put(tmp_path / "list.tsv", "sub/clip0.wav\tGO ON", "sub/clip1.wav\t", f"{tmp_path / 'sub/clip1.wav'}\tA")
    assert [(each.id, each.text) for each in read(path)] == [
        ("sub/clip0.wav", "GO ON"),
        ("sub/clip1.wav", ""),
        (f"{tmp_path / 'sub/clip1.wav'}", "A"),
    ]


def test_two_columns_with_their_names(tmp_path):
    clips(tmp_path)
    path = put(tmp_path / "list.tsv", "path\ttext", "clip0.wav\tGO ON")
    assert [(each.text, each.source) for each in read(path)] == [("GO ON", f"{path}:2")]


@pytest.mark.parametrize("line", ["clip0.wav", "clip0.wav\tGO\tON", "\tGO"])
def test_two_columns_bad_line_is_named(tmp_path, line):
    clips(tmp_path)
    path = put(tmp_path / "list.tsv", "clip0.wav\tGO", line)
    with pytest.raises(InputError, match=f"^{path}:2: not a path, a tab and a text"):
        read(path)
