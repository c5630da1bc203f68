"""Runs `sfm-quant` in children forked after the imports, which take longer than a command on a tiny model.

A line of standard input is JSON: the arguments, the file for the output, a signal to send or null, after how many
seconds. A line of standard output is the exit code, or minus the signal that ended it.
"""

import json
import os
import signal
import sys
import time

from stablequant.cli import main
from stablequant.workflows import calibrate  # noqa: F401

for line in sys.stdin:
    arguments, log, kill, after = json.loads(line)
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background ignores it
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv[1:] = arguments
        main.run()  # ends the process
    if kill is not None:
        time.sleep(after)
        os.kill(child, kill)  # one that has ended keeps its number until it is waited for
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
