"""Ctrl-C and SIGTERM end a command exactly once: neither lost on the way, nor answered when the work is done.

Why more than a handler that raises: Python drops what is raised in a destructor, a weak reference's or garbage
collector's callback or a callback from C, a library may catch it, and a system call that begins in the moment the
signal comes sleeps on. So the command line has to have seen the exception; until then it is raised again.

A command is STARTING (a signal ends the process at once, for there is nothing to clear up), then WORKING (it raises
Interrupted), then OVER (it is ignored: the outcome is decided). While the exception passes through `finally` and
`except` nothing more is raised, so a second Ctrl-C does not stop the clearing up. A third ends the process at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any

STARTING, WORKING, OVER = "starting", "working", "over"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = signal.SIGURG  # by default ignored, so that one that comes late does no harm
INTERVAL = 0.1  # seconds
PATIENCE = 2  # signals that let the process clear up
UNWINDING = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Interrupted(KeyboardInterrupt):
    """A signal that is to end the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    stage = OVER  # unless `install` was called, as for a program that uses the library, nothing here does anything
    received: int | None = None  # the first signal


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 for SIGINT and 143 for SIGTERM, as shells count."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


def default() -> None:
    """Ctrl-C ends the process at once, without a traceback: for the time in which Python imports us."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def install() -> None:
    """Handle the signals from now on; one that is ignored, as under nohup, stays ignored."""
    _State.stage, _State.received = STARTING, None
    sys.unraisablehook = _unraisable
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, threading.get_ident()), name="signals", daemon=True).start()
    signal.signal(AGAIN, _again)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)


def start() -> None:
    """From here on there is something to clear up: a signal raises Interrupted."""
    if _State.stage is STARTING:
        _State.stage = WORKING


def settle() -> None:
    """The outcome is decided, and shown next: raise an interrupt that came before and was lost; ignore later ones."""
    if _State.stage is WORKING and _State.received is not None:
        raise Interrupted(_State.received)
    close()


def close() -> None:
    """The command has ended, one way or another: ignore signals."""
    _State.stage = OVER


def ignore() -> None:
    """The same for the time in which Python shuts down, and no longer runs handlers."""
    close()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _receive(number: int, frame: FrameType | None) -> None:
    if _State.stage is STARTING:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    if _State.received is None:
        _State.received = number
    _again(number, frame)


def _again(_: int, frame: FrameType | None) -> None:
    if _State.stage is WORKING and _State.received is not None and not _unwinding(frame):
        raise Interrupted(_State.received)


def _unwinding(frame: FrameType | None) -> bool:
    """Whether what runs is the clearing up after an interrupt, or the hook that is called when one was lost."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, UNWINDING):
        error = None if error.__suppress_context__ else error.__context__  # `raise ... from` made another error of it
    while frame and frame.f_code is not _unraisable.__code__:
        frame = frame.f_back
    return error is not None or frame is not None


def _watch(reader: int, main: int) -> None:
    """Python's handler in C writes each signal's number to a pipe, whatever the main thread does; remind it."""
    received = 0
    while True:
        if select.select([reader], [], [], INTERVAL if received else None)[0]:
            numbers = [number for number in os.read(reader, 1024) if number in SIGNALS]
            received += len(numbers)
            if received > PATIENCE and numbers and _State.stage is not OVER:
                os._exit(128 + numbers[-1])
        elif _State.stage is OVER:
            return
        else:
            signal.pthread_kill(main, AGAIN)


def _unraisable(lost: Any) -> None:
    """Python could not raise an exception and reports it; ours is raised again elsewhere, and no bug."""
    if not issubclass(lost.exc_type, Interrupted) and "due to race condition" not in str(lost.exc_value):
        sys.__unraisablehook__(lost)
