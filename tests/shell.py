"""`sfm-quant` in processes forked after the imports, which take longer than a command on a tiny model.

They are real processes with descriptors, a working directory and an exit code of their own. What they cannot show is
left to `tiny.sfm_quant`: how the interpreter starts, what libraries read when they are imported, and the peak memory.
"""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path


class Shell:
    """Runs commands one after the other; `variables` are in the environment before the imports."""

    def __init__(self, **variables):
        self.folder = tempfile.TemporaryDirectory()
        settings = {"OMP_NUM_THREADS": "1"}  # threads do not survive a fork
        settings["MKL_CBWR"] = "AUTO,STRICT"  # as cli/calibrate.py sets it
        environment = os.environ | settings | variables
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, __file__], **pipes, env=environment)

    def python(self, code, env=None):
        """Run code in place of the command."""
        return self(code, env=env, what="code")

    def __call__(self, *arguments, what="command", text=True, input="", cwd=".", env=None, kill=None, after=0.0):
        """As subprocess.run; `env` is set besides, and `kill` is a signal to send `after` seconds."""
        files = [Path(self.folder.name) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(input)
        call = [what, list(map(str, arguments)), list(map(str, files)), os.path.abspath(cwd), env or {}, kill, after]  # noqa: PTH100
        self.server.stdin.write(json.dumps(call) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        output, errors = (file.read_text() if text else file.read_bytes() for file in files[1:])
        return subprocess.CompletedProcess(arguments, code, output, errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait()
        self.folder.cleanup()


def serve(calls, answers):
    """Run each call in a child; an answer is its exit code, or minus the signal that ended it."""
    from transformers.models.auto import modeling_auto  # noqa: F401
    from transformers.models.wav2vec2 import modeling_wav2vec2  # noqa: F401

    from stablequant.cli import main
    from stablequant.evaluation import peak_memory
    from stablequant.report import page  # noqa: F401
    from stablequant.workflows import calibrate, evaluate, transcribe  # noqa: F401

    peak_memory.peak_rss_bytes = lambda *_: 1
    gc.freeze()
    for line in calls:
        what, arguments, files, cwd, env, kill, after = json.loads(line)
        if (child := os.fork()) == 0:
            _become(files, cwd, env)
            sys.argv[:] = ["sfm-quant", *arguments]
            _end(main.run if what == "command" else _python)
        if kill is not None:
            time.sleep(after)
            os.kill(child, kill)  # one that has ended keeps its number until it is waited for
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _python():
    exec(sys.argv[1], {})
    sys.exit()


def _end(run):
    """Exit as `run` does, without taking down all modules, which takes a second."""
    code = 1
    try:
        run()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(files, cwd, env):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
    for number, (file, mode) in enumerate(zip(files, ("r", "w", "w"), strict=True)):
        with open(file, mode) as opened:  # noqa: PTH123
            os.dup2(opened.fileno(), number)
    os.chdir(cwd)
    os.environ.update(env)


if __name__ == "__main__":
    serve(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
