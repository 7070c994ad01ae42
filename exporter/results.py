"""What build pipelines read of an export: a summary as JSON, and the checks as JUnit XML.

JUnit's format has no standard; this is what the schema of Jenkins' xunit plugin allows
(``src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd``) and other readers understand. Times
are left out: the same export gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from exporter.building import Outcome
from exporter.errors import ExporterError, OutputError
from exporter.expectations import expected

SCHEMA = 1


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One document about all cells: verdicts, files with their hashes, parity numbers, errors."""
    return {"schema": SCHEMA, "cells": [_cell(outcome) for outcome in outcomes]}


def _cell(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": outcome.name,
        "status": outcome.status,
        "verdict": outcome.verdict,
        "folder": str(outcome.folder),
    }
    if outcome.artifact is not None:
        found["artifact"] = dict(outcome.artifact)
    if outcome.error is not None:
        found["error"] = _lines(outcome.error)
    return found


def _lines(error: ExporterError) -> dict[str, str]:
    """What was said, expected, found and hinted at."""
    return {key: text for key in ("message", "expected", "found", "hint") if (text := getattr(error, key)) is not None}


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """A suite for each cell, a case for each check of its parity proof."""
    root = Element("testsuites", name="exporter")
    for outcome in outcomes:
        suite = SubElement(root, "testsuite", name=_clean(outcome.name))
        _properties(suite, outcome)
        suite.extend(_cases(outcome))
        _count(suite, suite.findall("testcase"), _COUNTED | {"skipped": "skipped"})
    _count(root, root.findall("testsuite/testcase"), _COUNTED)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _properties(suite: Element, outcome: Outcome) -> None:
    values: dict[str, object] = {"status": outcome.status, "verdict": outcome.verdict}
    if outcome.artifact is not None:
        values["bytes"] = sum(file["bytes"] for file in outcome.artifact["files"])
        for kind in ("faithfulness", "quality"):
            numbers = outcome.artifact["parity"].get(kind, {})
            values |= {f"{kind}.{name}": number for name, number in numbers.items() if number is not None}
    properties = SubElement(suite, "properties")
    for name, value in values.items():
        SubElement(properties, "property", name=name, value=_clean(str(value)))


def _cases(outcome: Outcome) -> Iterator[Element]:
    if outcome.error is not None:
        case = _case(outcome, "export")
        _explain(case, "error", outcome.error.message, type(outcome.error).__name__, _lines(outcome.error))
        yield case
    if outcome.artifact is None:
        return
    artifact, parity = outcome.artifact, outcome.artifact["parity"]
    for check in parity.get("checks", ()):
        case = _case(outcome, check["name"])
        if not check["passed"]:
            wanted = expected(check["name"], artifact["target"], artifact["quant"])
            message = f"{check['name']}: {check['detail']}"
            _explain(case, "failure", message, "parity", {"expected": wanted, "found": check["detail"]})
        yield case
    if parity["verdict"] == "not run":
        case = _case(outcome, "logits")
        SubElement(case, "skipped", message=_clean(parity.get("reason", "the export was asked not to verify")))
        yield case


def _case(outcome: Outcome, name: str) -> Element:
    return Element("testcase", classname=_clean(f"parity.{outcome.name}"), name=_clean(name))


def _explain(case: Element, kind: str, message: str, type_: str, lines: Mapping[str, str]) -> None:
    element = SubElement(case, kind, message=_clean(message), type=type_)
    element.text = _clean("\n".join(f"{key}: {text}" for key, text in lines.items()))


_COUNTED = {"failures": "failure", "errors": "error"}


def _count(element: Element, cases: Sequence[Element], kinds: Mapping[str, str]) -> None:
    element.set("tests", str(len(cases)))
    for key, kind in kinds.items():
        element.set(key, str(sum(case.find(kind) is not None for case in cases)))


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot say at all (section 2.2, ``Char``)."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def write(path: Path, data: bytes) -> None:
    """Write one of these documents.

    Raises:
        OutputError: If that is not possible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written", found=error.strerror) from None


def dumps(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
