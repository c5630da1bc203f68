"""Write files and folders completely or not at all, and keep stdout for our own output."""

from __future__ import annotations

import glob
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = re.compile(r"\.(?P<stem>.+)\.\d+\.part(?P<suffix>\.[^.]*)?")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Inside, a new file beside `path` to write to; it becomes `path` at the end, or goes when something fails.

    It is on disk before it is renamed, so that a machine which stops leaves one of the two. A link is followed.
    """
    path = path.resolve()
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def final_name(name: str) -> str:
    """The name that a file which `replaced` writes to gets in the end; other names are as they are."""
    match = PARTIAL.fullmatch(name)
    return match["stem"] + (match["suffix"] or "") if match else name


def write(path: Path, text: str) -> None:
    """Write a file completely or not at all; a pipe or device is written to directly."""
    if path.exists() and not path.is_file():
        _write(path, text)
        return
    with replaced(path) as partial:
        _write(partial, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # half characters stay valid JSON


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """Inside, a folder next to `out` for unfinished files; a killed run's is removed on the next use of `out`."""
    import tempfile  # seldom needed, and with random behind it it would delay --help

    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield Path(tempfile.mkdtemp(prefix=workspace_prefix(out), dir=out.parent))
    finally:
        recover(out)


def recover(out: Path) -> None:
    """Clean up after a killed run: half a folder is removed, an older one that was moved aside comes back."""
    for left in out.parent.glob(glob.escape(workspace_prefix(out)) + "*"):
        old = left / "old"
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(left, ignore_errors=True)


def swap(new: Path, out: Path) -> None:
    """Rename a folder of a workspace to `out`; an older one there is moved aside, and comes back if that fails."""
    if out.exists():
        out.rename(new.with_name("old"))
    new.rename(out)


def workspace_prefix(out: Path) -> str:
    """The beginning of the names of workspaces of `out`."""
    return f".{out.name}.stablequant-"


def usual_modes(folder: Path) -> None:
    """Give a folder the permissions of new files; temporary folders, and files of safetensors, are private."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    folder.chmod(0o777 & ~umask)


@contextmanager
def c_output_on_stderr() -> Iterator[None]:
    """Inside, what C and C++ code prints to stdout goes to stderr: HiGHS prints some lines in any case."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def keep_stdout() -> None:
    """The same for the rest of the process, with a stdout of Python's own: C code cannot print into our JSON."""
    try:
        ours = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # closed by the caller, so nothing can be mixed up
        return
    out = sys.stdout
    sys.stdout = io.TextIOWrapper(
        os.fdopen(ours, "wb"),
        encoding=out.encoding,
        errors="backslashreplace",  # a path may hold what the terminal cannot show
        line_buffering=bool(out.line_buffering),
    )
