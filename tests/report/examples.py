"""An evaluation that a report can be made from."""

from stablequant.evaluation import result

HOSTILE = "<script>alert('x')</script> & \"so\""


def measured(**changes):
    known = {"path": "m", "scheme": "w8a8", "bytes_on_disk": 1, "wer_percent": 2.0, "wer_ci95": (1.0, 3.0)}
    known |= {"cer_percent": 1.0, "substitutions": 1, "deletions": 0, "insertions": 0, "rtfx": 9.0, "rtfx_packed": 9.0}
    known |= {
        "latency_ms": {"p50": 1.0, "p95": 2.0},
        "peak_rss_bytes": None,
        "sites": {"integer": 3, "float": 0},
        "float32_bytes": 4,
    }
    return result.Measured(**(known | changes))


def evaluated(baseline=True):
    delta = result.Delta(0.5, (0.1, 0.9), 0.01, 2.0, (1.9, 2.1), 2.5, 3.9, 7.8)
    gates = (result.Gate("min_speedup", 3.0, 2.0, False),) if baseline else ()
    return result.Result(
        models=(result.Compared(measured(), delta if baseline else None, gates),),
        baseline=measured(path="<float>", scheme="float32", wer_percent=1.5) if baseline else None,
        data=result.Data(2, 10, 4.0, "0", 0),
        environment={},
        normalize="basic",
        warnings=("slow",),
        predictions=(),
    )
