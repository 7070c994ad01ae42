"""The vectors are what the exporter makes of them today, and JavaScript makes the same of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from exporter.bundle.problems import TEXTS
from exporter.bundle.prompt_format import PromptFormat
from tests.javascript import transformers_js
from tests.vectors import generate
from tests.web.support import evaluate


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((generate.FOLDER / f"{name}.json").read_text())
    return found


def test_they_are_up_to_date() -> None:
    stale = [path.name for path, text in generate.texts().items() if path.read_text() != text]
    assert not stale, "run python -m tests.vectors.generate, and look at what changed"


def test_no_file_is_left_of_others() -> None:
    assert set(generate.FOLDER.glob("*.json")) == set(generate.texts())


def test_the_formats_render_what_jinja_rendered() -> None:
    found = read("prompts")
    formats = {name: PromptFormat(**fields) for name, fields in found["formats"].items()}
    dates = {case["format"]: case["text"] for case in found["dates"]}
    for case in found["prompts"]:
        form = formats[case["format"]]
        date = dates[form.date_format] if form.date_format else ""
        assert form.render(case["system"], case["turns"], date) == case["prompt"], case["about"]


def test_everything_that_can_be_said_is_said() -> None:
    found = read("bundles")
    said = {case["message"] for kind in ("documents", "archives", "runtimes", "golden") for case in found[kind]}
    assert found["texts"] == TEXTS
    for text in TEXTS.values():
        pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(text))
        assert any(message and re.fullmatch(pattern, message) for message in said), text


def test_the_schema_in_the_documents_accepts_the_same() -> None:
    """But that the artifact must be among the files is more than a schema can say."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs/bundle.schema.json").read_text())
    for case in read("bundles")["documents"]:
        message = case["message"] or ""
        if "it is not JSON" not in message and "among the files" not in message:
            accepted = jsonschema.Draft202012Validator(schema).is_valid(json.loads(case["text"]))
            assert accepted == (message == ""), case["about"]


def test_javascript_reads_verdicts_alike() -> None:
    transformers_js.require_node()
    found = read("guard")
    cases = found["verdicts"]
    answers = evaluate("guard.mjs", "args[0].map(parseVerdict)", [case["answer"] for case in cases])
    assert answers == [{name: case[name] for name in ("kind", "categories")} for case in cases]
    assert evaluate("guard.mjs", "CATEGORIES") == found["hazards"]
    assert evaluate("guard.mjs", "VERDICT_TOKENS") == found["verdict_tokens"]
