"""Ctrl-C and SIGTERM end a command exactly once: they are never lost, and they do not interrupt finished work.

A handler that raises is not enough. Python drops exceptions that are raised in a destructor, in a callback of a weak
reference or the garbage collector, or in a callback from C; a library may catch them; and a system call that starts at
the moment of the signal keeps sleeping. So the exception is raised again until the command line has seen it.

A command is STARTING (a signal ends the process at once, because there is nothing to clean up), then WORKING (it
raises Interrupted), then OVER (it is ignored: the outcome is decided). While the exception passes through `finally`
and `except` nothing more is raised, so a second Ctrl-C does not stop the cleanup. A third ends the process at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from types import FrameType

STARTING, WORKING, OVER = "starting", "working", "over"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = signal.SIGURG  # by default ignored, so that one that comes late does no harm
INTERVAL = 0.1  # seconds
PATIENCE = 2  # signals that let the process clean up
UNWINDING = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Interrupted(KeyboardInterrupt):
    """Raised by a signal that should end the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    stage = OVER  # until `install` is called (never, in a program that uses the library) nothing happens here
    received: int | None = None  # the first signal


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 for SIGINT and 143 for SIGTERM, as shells count."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


def default() -> None:
    """End the process at once on Ctrl-C, without a traceback, while Python imports this package."""
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
    """From here on there is something to clean up: a signal raises Interrupted."""
    if _State.stage is STARTING:
        _State.stage = WORKING


def settle() -> None:
    """The outcome is decided and shown next: raise an earlier interrupt that was lost, and ignore later ones."""
    if _State.stage is WORKING and _State.received is not None:
        raise Interrupted(_State.received)
    close()


def close() -> None:
    """The command has ended, one way or another: ignore signals."""
    _State.stage = OVER


def ignore() -> None:
    """The same while Python shuts down and no longer runs handlers."""
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
    """Whether the cleanup after an interrupt is running, or the hook that Python calls for a lost one."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, UNWINDING):
        error = None if error.__suppress_context__ else error.__context__  # `raise ... from` made another error of it
    while frame and frame.f_code is not _unraisable.__code__:
        frame = frame.f_back
    return error is not None or frame is not None


def _watch(reader: int, main: int) -> None:
    """Remind the main thread of signals: Python's handler in C writes their numbers to this pipe in any case."""
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


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Python could not raise an exception: report it, unless it is Interrupted, which is raised again elsewhere."""
    if not issubclass(lost.exc_type, Interrupted) and "due to race condition" not in str(lost.exc_value):
        sys.__unraisablehook__(lost)
