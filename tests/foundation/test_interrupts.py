"""Interrupts, each sent by the process itself at the place in question, so that no test depends on time."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import ctypes, gc, os, signal, sys, threading, time, types, weakref
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
sys.argv = ["sfm-quant", "calibrate", "m", "--data", "d", "--out", "o"]  # and torch is not imported
stub = types.ModuleType("stablequant.workflows.calibrate")
sys.modules[stub.__name__] = stub
from stablequant.cli import calibrate as calibrate_command
from stablequant.cli import main as cli
from stablequant.foundation import interrupts
number = signal.{name}

def interrupt(*_):
    signal.raise_signal(number)

def calibrate(options):
    place()
    time.sleep(60)
    os._exit(99)  # lost

stub.calibrate = calibrate
"""
TAIL = "\ncli.run()"
ADVICE = "; run the same command with --resume to continue"
PLACES = {
    "anywhere": "place = interrupt",
    "a destructor": """
class Slow:
    def __del__(self):
        interrupt()

place = Slow
""",
    "destructors, one after the other": """
class Slow:
    def __init__(self, more): self.more = more
    def __del__(self):
        interrupt()
        if self.more:
            Slow(self.more - 1)
            time.sleep(60)

place = lambda: Slow(1)
""",
    "the hook that reports what a destructor raised": """
class Broken:
    def __del__(self):
        1 / 0

def place():
    sys.__unraisablehook__ = interrupt
    Broken()
""",
    "a weak reference's callback": """
def place():
    watched = type("Watched", (), {})()
    reference = weakref.ref(watched, interrupt)
    del watched
""",
    "a weak reference's finalizer": """
def place():
    watched = type("Watched", (), {})()
    weakref.finalize(watched, interrupt)
""",
    "a callback from C": """
def place():
    ctypes.CFUNCTYPE(None)(interrupt)()
""",
    "a callback of the garbage collector": """
def place():
    gc.callbacks.append(interrupt)
    gc.collect()
    gc.callbacks.remove(interrupt)
""",
    "a call from C that drops errors": """
class Asked:
    def __getattr__(self, name):
        interrupt()

def place():
    ctypes.pythonapi.PyObject_HasAttrString(ctypes.py_object(Asked()), b"name")
""",
    "a block that catches everything": """
def place():
    try:
        interrupt()
    except BaseException:
        pass
""",
    "blocks that catch everything, for ever": """
def place():
    for _ in range(3):
        try:
            interrupt() if interrupts._State.received is None else time.sleep(60)
        except BaseException:
            pass
""",
    "a block that makes another error of it": """
def place():
    try:
        interrupt()
    except BaseException as error:
        raise ValueError("the file is damaged") from error
""",
    "work in the handler of an error that was made of it": """
def place():
    try:
        try:
            interrupt()
        except BaseException as error:
            raise ImportError("half a library") from error
    except ImportError:
        time.sleep(60)
""",
    "a system call that has just begun": """
def place():  # as if: the handler in C has run, and the main thread sleeps all the same
    threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), number)).start()
""",
    "a thread's start": """
class Thread(threading.Thread):
    def _bootstrap_inner(self):
        signal.pthread_kill(threading.main_thread().ident, number)
        super()._bootstrap_inner()

def place():
    Thread(target=time.sleep, args=(0,), daemon=True).start()
""",
    "a wait for a thread": """
def place():
    threading.Timer(0, os.kill, (os.getpid(), number)).start()
    threading.Event().wait()
""",
    "the import of a module": """
def place():
    Path("slow_module.py").write_text("import signal; signal.raise_signal(%d)" % number)
    sys.path.insert(0, ".")
    import slow_module
""",
    "an import that may fail": """
def place():
    Path("slow_module.py").write_text("import signal; signal.raise_signal(%d)" % number)
    sys.path.insert(0, ".")
    try:
        import slow_module
    except:
        pass
""",
    "two at once": """
def place():
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    os.kill(os.getpid(), number)
    signal.pthread_kill(threading.main_thread().ident, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
""",
    "two, the second while the first is cleared up": """
def place():
    try:
        interrupt()
    finally:
        interrupt()
        time.sleep(0.3)  # and nothing is raised again
        print("cleared up", flush=True)
""",
    "two, the second while a generator is closed": """
def steps():
    try:
        yield
    finally:
        interrupt()
        time.sleep(0.3)
        print("cleared up", flush=True)

def place():
    for _ in steps():
        interrupt()
""",
    "two, the second when the command line knows": """
def place():
    stub.echo = cli.click.echo
    cli.click.echo = lambda *a, **k: (interrupt(), stub.echo(*a, **k))
    interrupt()
""",
    "the moment before the outcome": """
def place():
    try:
        interrupt()
    except BaseException:
        pass
    interrupts.settle()
    print("shown")
""",
}


def run(code, folder, name="SIGINT", **options):
    command = [sys.executable, "-c", HEAD.format(name=name) + code + TAIL]
    options = {"capture_output": True, "text": True, "check": False, "timeout": 20, **options}
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


ROOT = Path(__file__).parents[2]


ALSO = ("anywhere", "a destructor", "a block that catches everything", "a system call that has just begun")
CASES = [(place, "SIGINT", 130) for place in PLACES] + [(place, "SIGTERM", 143) for place in ALSO]


@pytest.mark.parametrize(("place", "name", "code"), CASES)
def test_ends_once(place, name, code, tmp_path):
    done = run(PLACES[place], tmp_path, name)
    assert (done.returncode, done.stderr) == (code, f"Interrupted{ADVICE}.\n")
    assert done.stdout == ("cleared up\n" if "cleared up" in PLACES[place] else "")


RESULT = """
import json
calibrate_command._table = lambda result: "table"
sys.argv += ["--json", "-"]

def calibrate(options):
    BEFORE
    interrupts.settle()
    AFTER
    return {}

stub.calibrate = calibrate
"""
BESIDE = "cli.click.echo = lambda *a, **k: (interrupt(), echo(*a, **k), interrupt())"
FINISHED = {
    "right after": RESULT.replace("BEFORE", "pass").replace("AFTER", "interrupt()"),
    "while it is shown": f"echo = cli.click.echo\n{BESIDE}"
    + RESULT.replace("BEFORE", "pass").replace("AFTER", "pass"),
    "again and again": RESULT.replace("BEFORE", "pass").replace("AFTER", "[interrupt() for _ in range(9)]"),
    "at exit": RESULT.replace("BEFORE", "import atexit; atexit.register(interrupt)").replace("AFTER", "pass"),
    "when modules are taken down": RESULT.replace("BEFORE", "sys.last = Last()").replace("AFTER", "pass")
    + """
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=number):
        kill(pid, number)
""",
}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", FINISHED)
def test_finished_work_is_not_interrupted(when, name, tmp_path):
    done = run(FINISHED[when], tmp_path, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "table\n")


def test_right_before_the_outcome_nothing_is_shown(tmp_path):
    done = run(RESULT.replace("BEFORE", "interrupt()").replace("AFTER", "pass"), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"Interrupted{ADVICE}.\n")


def test_an_error_keeps_its_exit_code(tmp_path):
    code = f"""
echo = cli.click.echo
import click.exceptions
click.exceptions.echo = lambda *a, **k: (interrupt(), echo(*a, **k), interrupt())
def place():
    raise cli.InputError("no such model")
{TAIL}"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (3, "Error: no such model\n")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_third_ends_what_will_not_end(name, code, tmp_path):
    forever = """
def place():
    try:
        interrupt()
    finally:
        while True:
            interrupt()
"""
    done = run(forever, tmp_path, name)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_while_options_are_read_nothing_is_cleared_up(name, tmp_path):
    early = "cli.main.make_context = lambda *a, **k: interrupt()"
    done = run(early, tmp_path, name)
    assert (done.returncode, done.stderr) == (-signal.Signals[name], "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ignored_stays_ignored(name, tmp_path):
    ignored = """
signal.signal(number, signal.SIG_IGN)
def place():
    interrupt()
    assert signal.getsignal(number) is signal.SIG_IGN
    sys.exit(7)
"""
    assert run(ignored, tmp_path, name).returncode == 7


def test_while_python_imports_us_ctrl_c_has_its_default_action(tmp_path):
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["/usr/bin/sfm-quant"]
import stablequant
signal.raise_signal(signal.SIGINT)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_other_errors_in_destructors_are_still_reported(tmp_path):
    code = """
class Broken:
    def __del__(self):
        1 / 0

def place():
    Broken()
    sys.exit(7)
"""
    done = run(code, tmp_path)
    assert done.returncode == 7
    assert re.match("Exception ignored in: .*__del__", done.stderr)
