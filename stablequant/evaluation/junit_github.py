"""Results for CI servers: JUnit XML, and GitHub's annotations in the log."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from .result import Compared, Gate, Result, gate_sentence, table

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
TITLE = "sfm-quant eval"


def junit(result: Result) -> str:
    """One test case per gate and model, or one that says what was measured; the table is the suite's output."""
    suite = ElementTree.Element("testsuite", name=TITLE)
    for each in result.models:
        for gate in each.gates:
            _gate_case(suite, each, gate)
        if not each.gates:
            _case(suite, each, "measured", f"WER {each.model.wer_percent:.2f} %")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    ElementTree.SubElement(suite, "system-out").text = _legal(table(result))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    # "unicode" would write no declaration of UTF-8
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n"


def _gate_case(suite: ElementTree.Element, compared: Compared, gate: Gate) -> None:
    found = f"found {gate.value:.4g}, limit {gate.limit:g}"
    case = _case(suite, compared, gate.name, found)
    if not gate.passed:
        failure = ElementTree.Element("failure", type=gate.name, message=found)
        failure.text = _legal(gate_sentence(compared, gate))
        case.insert(0, failure)  # the schemas in use want it before the output


def _case(suite: ElementTree.Element, compared: Compared, name: str, output: str) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase", classname=_legal(compared.model.path), name=name)
    ElementTree.SubElement(case, "system-out").text = output
    return case


def _legal(text: str) -> str:
    """The text without what XML cannot contain: control characters and half characters (surrogates)."""
    return NOT_XML.sub("\ufffd", text)


def github_annotations(result: Result) -> list[str]:
    """GitHub's workflow commands: an error for each gate that failed, a warning for each warning."""
    failed = [gate_sentence(each, gate) for each in result.models for gate in each.gates if not gate.passed]
    return [_command("error", each) for each in failed] + [_command("warning", each) for each in result.warnings]


def _command(kind: str, message: str) -> str:
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):  # as @actions/core escapes them
        message = message.replace(character, code)
    return f"::{kind} title={TITLE}::{message}"
