import subprocess
import sys

import numpy as np

from stablequant.evaluation import peak_memory


def test_own_peak_counts_what_was_held():
    before = peak_memory.own_peak_bytes()
    held = np.ones(before // 8 + 2**24)  # more than the peak so far, by 128 MB
    assert peak_memory.own_peak_bytes() > before + 2**26
    assert held.all()


def test_child_does_not_start_with_the_peak_of_its_parent():
    held = np.ones(2**25)  # 256 MB
    # without the torch of the package
    code = f"import runpy; print(runpy.run_path({peak_memory.__file__!r})['own_peak_bytes']())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 2**27
    assert held.all()


def test_process_that_fails_measures_nothing(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert peak_memory.peak_rss_bytes("model", 1.0, 1) is None
