"""What every layout promises, tested for each file of the folder; a new one needs an example in layouts/."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speech.layouts import examples

from stablequant.foundation import registry
from stablequant.foundation.errors import InputError
from stablequant.speech import audio

LAYOUTS = registry.names("layouts")
every_layout = pytest.mark.parametrize("name", LAYOUTS)
LISTS = {"nemo": "manifest.jsonl", "audiofolder": "metadata.csv", "kaldi": "wav.scp", "fairseq": "valid.tsv"}
LISTS |= {"speechbrain": "test.csv", "common_voice": "test.tsv", "two_column": "list.tsv"}


def read(data):
    return audio.listing(data, require_text=True).utterances


def test_every_layout_has_an_example():
    assert set(LAYOUTS) == {*examples.PLAIN, *examples.NEED_MONKEYPATCH}


@every_layout
def test_it_says_what_it_is_and_when_it_is_asked(name):
    layout = registry.get("layouts", name)
    assert layout.TITLE
    assert layout.RANK in {0, 1, 2}


@every_layout
def test_its_data_is_detected_as_its_own_and_read(name, tmp_path, monkeypatch):
    data = examples.make(name, tmp_path / "data", monkeypatch)
    found = audio.listing(data, require_text=True)
    assert (found.layout, found.problems) == (name, [])
    assert [each.text for each in found.utterances] == list(examples.TEXTS)
    assert len({each.id for each in found.utterances}) == 2
    assert [round(audio.length(each), 2) for each in found.utterances] == [0.5, 0.5]
    assert len(audio.load(found.utterances[0], 16000)) == 8000


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"stdin", "saved_dataset"}))
def test_names_do_not_depend_on_where_the_data_lies(name, tmp_path, monkeypatch):
    data = Path(examples.make(name, tmp_path / "here", monkeypatch))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    copy = tmp_path / "there" / data.relative_to(tmp_path / "here")
    assert [each.id for each in read(copy)] == [each.id for each in read(data)]


@every_layout
def test_nothing_else_is_its_own(name, tmp_path):
    detect = registry.get("layouts", name).detect
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 9)
    assert not any(detect(tmp_path / each) for each in ("empty", "noise", "missing"))


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"same_stem", "saved_dataset"}))
def test_a_recording_that_is_missing_is_told_with_its_place(name, tmp_path, monkeypatch):
    data = examples.make(name, tmp_path / "data", monkeypatch)
    for path in tmp_path.rglob("*"):
        if path.suffix in audio.SUFFIXES:
            path.unlink()
    with pytest.raises(InputError, match=r":\d: no recording .*; correct") as error:
        read(data)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"stdin", "saved_dataset"}))
def test_text_in_another_encoding_is_told_with_its_file(name, tmp_path, monkeypatch):
    data = examples.make(name, tmp_path / "data", monkeypatch)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in audio.SUFFIXES:
            path.write_bytes(path.read_bytes().replace(b"ON", b"\xe9"))
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte \d+\); save it as UTF-8"):
        read(data)


@pytest.mark.parametrize("name", sorted(LISTS))
@given(text=st.text(st.sampled_from('ab0-. \t\n\r,"|${}[]:@é\0'), max_size=60), keep=st.booleans())
@settings(max_examples=25)
def test_a_list_of_nonsense_fails_in_no_other_way_than_told(name, text, keep, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / f"nonsense-{name}"
    path = folder / LISTS[name]
    if not folder.exists():
        examples.PLAIN[name](folder)
        path.with_name("header").write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    path.write_text((path.with_name("header").read_text() if keep else "") + text, encoding="utf-8", newline="")
    assert all(str(folder) in told for told in problems(path))


def problems(path):
    """All that is told of the data, whether it could be read or not."""
    try:
        return audio.survey(path, require_text=True).problems
    except InputError as error:
        return [str(error)]


@pytest.mark.parametrize("name", sorted(LISTS))
def test_every_list_is_in_the_example(name, tmp_path, monkeypatch):
    examples.make(name, tmp_path, monkeypatch)
    assert (tmp_path / LISTS[name]).is_file()
