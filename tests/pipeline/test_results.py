"""JUnit XML: the shape that readers expect, whatever a check has said."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import results
from exporter.building import Outcome
from exporter.errors import CheckpointError

# Element -> attributes it must have, attributes it may have, children; from the schema that exporter/results.py names.
SHAPE: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"},
        {"properties", "testcase"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name"}, {"time", "classname", "group"}, {"skipped", "error", "failure"}),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
}


def valid(data: bytes) -> Element:
    """The document, which has the shape."""
    root = ElementTree.fromstring(data)
    assert root.tag == "testsuites"
    for element in root.iter():
        must, may, children = SHAPE[element.tag]
        assert must <= set(element.attrib) <= must | may, element.tag
        assert {child.tag for child in element} <= children, element.tag
    for suite in (root, *root):
        cases = list(suite.iter("testcase"))
        counted = {"tests": len(cases), "failures": _with(cases, "failure"), "errors": _with(cases, "error")}
        assert {name: int(suite.attrib[name]) for name in counted} == counted
    return root


def _with(cases: list[Element], kind: str) -> int:
    return sum(case.find(kind) is not None for case in cases)


def built(*checks: tuple[str, bool, str], verdict: str = "pass", **parity: Any) -> Outcome:
    numbers = {"mean_kl": 1e-3, "top1": 1.0, "max_abs": None}
    found = {
        "verdict": verdict,
        "checks": [{"name": name, "passed": passed, "detail": detail} for name, passed, detail in checks],
        "faithfulness": numbers,
        "quality": numbers,
        **parity,
    }
    artifact = {"target": "gguf", "quant": "int4", "files": [{"path": "a", "bytes": 5}], "parity": found}
    return Outcome("cell", "built", Path("cell"), artifact)


def test_a_failure_says_what_was_expected_and_found() -> None:
    root = valid(results.junit([built(("weights", True, "all"), ("rounding", False, "0.5 (w)"), verdict="fail")]))
    assert [case.get("name") for case in root.iter("testcase")] == ["weights", "rounding"]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "rounding: 0.5 (w)"
    assert failure.text is not None
    expected, found = failure.text.splitlines()
    assert expected.startswith("expected: no row of a weight off by more than ")
    assert found == "found: 0.5 (w)"


def test_what_was_not_run_is_skipped_with_its_reason() -> None:
    root = valid(results.junit([built(("weights", True, "all"), verdict="not run", reason="no Core ML here")]))
    (skipped,) = root.iter("skipped")
    assert skipped.get("message") == "no Core ML here"
    assert root[0].get("skipped") == "1"


def test_an_export_that_was_refused_is_an_error() -> None:
    error = CheckpointError("no such folder", expected="a model", found="nothing", hint="look again")
    root = valid(results.junit([Outcome("cell", "error", Path("cell"), error=error), built()]))
    (found,) = root.iter("error")
    assert (found.get("message"), found.get("type")) == ("no such folder", "CheckpointError")
    assert found.text == "message: no such folder\nexpected: a model\nfound: nothing\nhint: look again"


@settings(max_examples=30)
@given(st.text(st.characters(codec="utf-8")))
def test_no_text_breaks_the_document(text: str) -> None:
    root = valid(results.junit([built((text, False, text), verdict="fail")]))
    assert len(list(root.iter("failure"))) == 1
