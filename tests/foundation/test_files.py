"""Files and folders are whole or not there, whatever happens while they are written."""

import os
import subprocess
import sys

import pytest

from stablequant.foundation import files


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail():
        with files.replaced(path) as partial:
            partial.write_text("ne")
            raise error

    with pytest.raises(error):
        fail()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("result.json", "old")]


@pytest.mark.parametrize("name", ["stats.npz", "scores.jsonl", "a.b.json", "plain"])
def test_what_is_half_written_is_known_by_its_name(tmp_path, name):
    with files.replaced(tmp_path / name) as partial:
        partial.write_bytes(b"new")
        assert partial.name != name
        assert partial.suffix == ((tmp_path / name).suffix or ".part")
        assert files.final_name(partial.name) == files.final_name(name) == name
    assert (tmp_path / name).read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_half_characters_stay_readable(tmp_path):
    files.write(tmp_path / "a", "caf\udce9")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "caf\\udce9"


def test_a_folder_that_stepped_aside_returns(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    with files.workspace(out) as folder:
        out.rename(folder / "old")  # and the run is killed here
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert (out / "mine").exists()


def test_a_folder_replaces_an_older_one(tmp_path):
    out = tmp_path / "out"
    for name in ("first", "second"):
        with files.workspace(out) as folder:
            (folder / "new").mkdir()
            (folder / "new" / name).write_text("")
            files.swap(folder / "new", out)
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")] == ["out", "out/second"]


def test_folders_get_the_modes_of_new_files(tmp_path):
    (tmp_path / "f").mkdir(mode=0o700)
    (tmp_path / "f" / "private").touch(mode=0o600)
    before = os.umask(0o027)
    try:
        files.usual_modes(tmp_path / "f")
    finally:
        os.umask(before)
    assert [oct((tmp_path / each).stat().st_mode & 0o777) for each in ("f", "f/private")] == ["0o750", "0o640"]


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("with files.c_output_on_stderr(): os.write(1, b'C')\nprint('ours')", ("ours\n", "C")),
        ("files.keep_stdout()\nos.write(1, b'C')\nprint('ours')", ("ours\n", "C")),
        ("os.close(1)\nfiles.keep_stdout()", ("", "")),
    ],
    ids=["for a while", "from now on", "closed"],
)
def test_c_code_prints_to_stderr(code, printed):
    command = [sys.executable, "-c", f"import os, sys\nsys.argv = ['sfm-quant']\n{HEAD}{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == printed


HEAD = "from stablequant.foundation import files\n"
