import json
import os
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from stablequant.foundation.errors import InputError
from stablequant.speech import audio
from stablequant.speech.audio import Utterance


def tone(seconds=0.5, rate=16000, hertz=440):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, samples=None, rate=16000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if samples is None else samples, rate, **options)
    return path


def utterance(path, offset=0.0, duration=None):
    return Utterance(path.name, path, None, None, offset, duration, "manifest.jsonl:1")


def manifest(folder, *entries):
    """A manifest of entries, each a dict or a raw line; every recording named in them exists."""
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("audio_filepath"), str):
            write(folder / entry["audio_filepath"])
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(data, require_text=True, **options):
    return audio.listing(data, require_text=require_text, **options).utterances


# ---- what is wrong with the data


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'audio_filepath': 'b.wav'}", "not JSON"),
        ('["b.wav"]', "not a JSON object"),
        ('{"text": "B"}', "no audio_filepath"),
        ('{"audio_filepath": "", "text": "B"}', "no audio_filepath"),
        ('{"audio_filepath": 7, "text": "B"}', "audio_filepath is 7, not a path"),
        ('{"audio_filepath": "a.wav"}', "no transcript"),
        ('{"audio_filepath": "a.wav", "text": null}', "no transcript"),
        ('{"audio_filepath": "a.wav", "text": 5}', "text is 5, not a string"),
        ('{"audio_filepath": "a.wav", "text": "B", "duration": -1}', "duration is -1"),
        ('{"audio_filepath": "a.wav", "text": "B", "offset": "3"}', 'offset is "3"'),
        ('{"audio_filepath": "a.wav", "text": "B", "offset": NaN}', "offset is NaN"),
        ('{"audio_filepath": "a.wav", "text": "B", "offset": 1e999}', "offset is Infinity"),
        ('{"audio_filepath": "a.wav", "text": "B", "offset": true}', "offset is true"),
        ('{"audio_filepath": "no.wav", "text": "B"}', "no recording .*no.wav"),
    ],
)
def test_bad_line_of_a_manifest_is_named(tmp_path, line, message):
    path = manifest(tmp_path, {"audio_filepath": "a.wav", "text": "A"}, line)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:2: {message}"):
        read(path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
entries = st.fixed_dictionaries({}, optional=dict.fromkeys(["audio_filepath", "text", "offset", "duration"], values))


@given(st.lists(entries.map(json.dumps) | st.text(max_size=20), max_size=3))
def test_no_manifest_fails_in_another_way_than_told(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    with pytest.raises(InputError, match=r"fuzz\.jsonl"):
        read(path)


def test_all_problems_are_told_once_and_by_kind(tmp_path):
    good, lost = {"audio_filepath": "a.wav", "text": "A"}, '{"audio_filepath": "no.wav", "text": "A"}'
    path = manifest(tmp_path, "x", good, lost, "z")
    with pytest.raises(InputError) as error:
        read(path)
    told = str(error.value).splitlines()
    assert [line.removeprefix(str(path))[:8] for line in told] == [":1: not ", ":4: not ", ":3: no r"]


def test_many_problems_of_a_kind_are_one_sentence(tmp_path):
    path = manifest(tmp_path, *['{"audio_filepath": "a.wav"}'] * 999, "x")
    write(tmp_path / "a.wav")
    with pytest.raises(InputError) as error:
        read(path)
    first, second = str(error.value).splitlines()
    assert first == (
        f"{path}:1: no transcript, which is needed here; add the text "
        f"(999 similar entries: {path}:1, {path}:2, {path}:3, ...)"
    )
    assert second.startswith(f"{path}:1000: not JSON")


def test_what_headers_tell_is_told_with_the_rest(tmp_path):
    past = {"audio_filepath": "a.wav", "text": "A", "offset": 99.0}
    path = manifest(tmp_path, "{", past)
    with pytest.raises(InputError) as error:
        read(path)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{path}:1: not JSON")
    assert second.startswith(f"{path}:2: offset 99 s is past the end")


def test_a_subset_has_a_size(tmp_path):
    with pytest.raises(InputError, match="max_samples is 0; it must be 1 or more"):
        read(manifest(tmp_path, {"audio_filepath": "a.wav", "text": "A"}), max_samples=0)


def test_twenty_sentences_are_told_and_the_number_of_the_others():
    told = audio.told([f"{n}: bad; do {n}" for n in range(25)])
    assert told == [*(f"{n}: bad; do {n}" for n in range(20)), "and 5 more"]


def test_skip_bad_leaves_out_what_is_bad_and_tells_it(tmp_path):
    path = manifest(tmp_path, "x", *({"audio_filepath": f"{n}.wav", "text": "A"} for n in range(9)))
    found = audio.listing(path, require_text=True, max_samples=4, skip_bad=True)
    assert found.layout == "nemo"
    assert len(found.utterances) == 4
    assert [problem[: len(str(path)) + 2] for problem in found.problems] == [f"{path}:1"]
    assert found.skipped == 1


@pytest.fixture
def corrupt(tmp_path):
    """A manifest of a good recording, one cut off in the middle and listed twice, and one with NaN."""
    path = manifest(
        tmp_path, *({"audio_filepath": name, "text": "A"} for name in ("a.wav", "b.flac", "b.flac", "c.wav"))
    )
    write(tmp_path / "b.flac", tone(4.0))
    (tmp_path / "b.flac").write_bytes((tmp_path / "b.flac").read_bytes()[:9000])
    write(tmp_path / "c.wav", np.full(800, np.nan), subtype="FLOAT")
    return path


def test_corrupt_recordings_are_found_before_the_work_and_all_told(corrupt):
    with pytest.raises(InputError) as error:
        audio.decoded(audio.listing(corrupt, require_text=True), 16000, skip_bad=False)
    first, second = str(error.value).splitlines()
    assert "b.flac: cannot be decoded" in first
    assert "c.wav: has samples that are NaN" in second


def test_corrupt_recordings_are_left_out_and_counted(corrupt):
    found, facts = audio.decoded(audio.listing(corrupt, require_text=True), 16000, skip_bad=True)
    assert [each.id for each in found.utterances] == ["a.wav"]
    assert facts == [audio.facts(found.utterances[0], 16000)]
    assert (len(found.problems), found.skipped) == (2, 3)


def test_nothing_but_corrupt_recordings_is_refused(corrupt):
    (corrupt.parent / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.wav: the file is empty"):
        audio.decoded(audio.listing(corrupt, require_text=True), 16000, skip_bad=True)


def test_skip_bad_with_nothing_left_is_refused(tmp_path):
    with pytest.raises(InputError, match=":1: not JSON"):
        audio.listing(manifest(tmp_path, "x"), require_text=True, skip_bad=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), r".*a\.wav is a folder, not a recording"),
        (lambda path: os.mkfifo(path), r".*a\.wav is a pipe or device, not a regular file"),
        (lambda path: path.symlink_to("gone.wav"), r"no recording .*a\.wav \(a link to a missing file\)"),
    ],
)
def test_path_that_is_no_regular_file(tmp_path, make, message):
    make(tmp_path / "a.wav")
    path = tmp_path / "list.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "text": "A"}')
    with pytest.raises(InputError, match=f":1: {message}; correct the path or remove the entry$"):
        read(path)


def test_name_too_long_for_a_file(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"audio_filepath": "a" * 300, "text": "A"}))
    with pytest.raises(InputError, match=r":1: no recording .*a{300}"):
        read(path)


def test_links_and_paths_out_of_the_folder_are_followed(tmp_path):
    write(tmp_path / "elsewhere/a.wav")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link.wav").symlink_to("../elsewhere/a.wav")
    names = ["link.wav", "../elsewhere/a.wav", str(tmp_path / "elsewhere/a.wav")]
    path = tmp_path / "here/list.jsonl"
    path.write_text("\n".join(json.dumps({"audio_filepath": name, "text": "A"}) for name in names))
    waveforms = [audio.load(each, 16000) for each in read(path)]
    assert all(np.array_equal(each, waveforms[0]) for each in waveforms)


def test_transcript_is_not_needed_to_calibrate(tmp_path):
    path = manifest(tmp_path, {"audio_filepath": "a.wav"})
    assert read(path, require_text=False)[0].text is None


def test_folder_without_transcripts_is_refused_when_words_are_counted(tmp_path):
    write(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"a\.wav: no transcript"):
        read(tmp_path)


def test_librispeech_recording_is_missing(tmp_path):
    write(tmp_path / "84/121/84-121-0000.flac")
    (tmp_path / "84/121/84-121.trans.txt").write_text("84-121-0000 GO\n84-121-0001 BUT\n")
    with pytest.raises(InputError, match=r"84-121\.trans\.txt:2: no recording .*84-121-0001\.flac"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.mkdir(), "an empty folder"),
        (lambda path: (path / "images").mkdir(parents=True), "not in a known layout"),
        (lambda path: path.write_text("a.wav\thello"), "not in a known layout"),
    ],
)
def test_data_that_is_none(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(InputError, match=f"data: {message}"):
        read(tmp_path / "data")


def test_a_recording_is_no_list(tmp_path):
    (tmp_path / "hello.WAV").touch()
    with pytest.raises(InputError, match=r"hello\.WAV: a recording, not a list of recordings; pass its folder"):
        read(tmp_path / "hello.WAV")


def test_empty_manifest(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="lists no utterances"):
        read(tmp_path)


def test_manifest_in_another_encoding(tmp_path):
    (tmp_path / "manifest.jsonl").write_bytes(b'{"audio_filepath": "\xe9.wav"}')
    with pytest.raises(InputError, match=r"manifest\.jsonl: not UTF-8 text \(byte 20\)"):
        read(tmp_path)


def test_manifest_with_a_byte_order_mark_and_windows_line_ends(tmp_path):
    write(tmp_path / "a.wav")
    (tmp_path / "manifest.jsonl").write_bytes(b'\xef\xbb\xbf{"audio_filepath": "a.wav", "text": "A"}\r\n\r\n')
    assert [each.text for each in read(tmp_path)] == ["A"]


# ---- the subset


def test_subset_is_seeded_nested_and_in_order(tmp_path):
    path = manifest(tmp_path, *({"audio_filepath": f"{n}.wav", "text": "A"} for n in range(20)))
    every = [each.id for each in read(path)]
    five, ten = ([each.id for each in read(path, max_samples=count)] for count in (5, 10))
    assert len(five) == 5
    assert set(five) < set(ten)
    assert ten == [name for name in every if name in ten]
    assert five != [each.id for each in read(path, max_samples=5, seed=1)]
    assert every == [each.id for each in read(path, max_samples=99)]


def test_subset_does_not_depend_on_the_order_of_the_data(tmp_path):
    entries = [{"audio_filepath": f"{n}.wav", "text": "A"} for n in range(20)]
    there = {each.id for each in read(manifest(tmp_path / "x", *entries), max_samples=5)}
    back = {each.id for each in read(manifest(tmp_path / "y", *entries[::-1]), max_samples=5)}
    assert there == back


def test_same_recording_with_two_transcripts_counts_twice(tmp_path):
    path = manifest(tmp_path, *({"audio_filepath": "a.wav", "text": text} for text in "ABC"))
    assert len(read(path, max_samples=2)) == 2
