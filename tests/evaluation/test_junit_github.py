from dataclasses import replace
from xml.etree import ElementTree

import pytest

from stablequant.evaluation.junit_github import github_annotations, junit
from stablequant.evaluation.result import Compared, Data, Delta, Gate, Measured, Result


def measured(path):
    speed = {"rtfx": 50.0, "rtfx_packed": 60.0, "latency_ms": {"p50": 1.0, "p95": 2.0}, "peak_rss_bytes": None}
    errors = {"wer_percent": 2.5, "wer_ci95": (1.0, 4.0), "cer_percent": 1.0}
    return Measured(
        path, "w8a8", 1000, **errors, substitutions=1, deletions=1, insertions=0, **speed, sites={}, float32_bytes=8000
    )


DELTA = Delta(0.5, (0.1, 0.9), 0.02, 1.8, (1.5, 2.1), 1.9, 3.9, 7.8)
GATES = (Gate("max_wer_increase", 0.3, 0.5, False), Gate("min_compression", 3.5, 3.9, True))


def result(*models, warnings=()):
    data = Data(utterances=2, words=80, audio_seconds=9.0, sha256="00", skipped_bad=0)
    return Result(models, measured("float"), data, {}, "none", warnings, ())


def cases(found):
    root = ElementTree.fromstring(junit(found).encode())
    assert root.tag == "testsuites"
    return root.find("testsuite"), root.findall("testsuite/testcase")


def test_every_gate_of_every_model_is_a_test_case():
    first, second = Compared(measured("ours"), DELTA, GATES), Compared(measured("small"), DELTA, GATES[1:])
    suite, found = cases(result(first, second))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")
    assert [(case.get("classname"), case.get("name")) for case in found] == [
        ("ours", "max_wer_increase"),
        ("ours", "min_compression"),
        ("small", "min_compression"),
    ]
    failure = found[0].find("failure")
    assert failure.get("message") == "found 0.5, limit 0.3"
    assert failure.text == "FAILED: max_wer_increase 0.3, found 0.5 (ours)"
    assert found[1].find("failure") is None
    assert found[1].findtext("system-out") == "found 3.9, limit 3.5"
    assert "2.50 [1.00, 4.00]" in suite.findtext("system-out")


def test_without_a_gate_one_case_says_it_was_measured():
    suite, (case,) = cases(result(Compared(measured("ours"), None, ())))
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    assert (case.get("name"), case.findtext("system-out")) == ("measured", "WER 2.50 %")


@pytest.mark.parametrize("path", ['a<b>&"c"/', "caf\u00e9", "\x1b[31m\x00", "\udcff"])
def test_any_path_makes_xml(path):
    _, (case, _) = cases(result(Compared(measured(path), DELTA, GATES)))
    legal = "".join(letter if letter.isprintable() else "\ufffd" for letter in path)
    assert case.get("classname") == legal
    assert legal in case.findtext("failure")


def test_annotations_are_of_failed_gates_and_warnings():
    lines = github_annotations(result(Compared(measured("ours"), DELTA, GATES), warnings=("100 % slow\r\nreally",)))
    assert lines == [
        "::error title=sfm-quant eval::FAILED: max_wer_increase 0.3, found 0.5 (ours)",
        "::warning title=sfm-quant eval::100 %25 slow%0D%0Areally",
    ]


def test_nothing_to_annotate():
    gates = tuple(replace(gate, passed=True) for gate in GATES)
    assert github_annotations(result(Compared(measured("ours"), DELTA, gates))) == []
