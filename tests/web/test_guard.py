"""Verdicts: whatever a guard model says becomes one, and doubt never counts as safe."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.support import evaluate

SAFE = {"kind": "safe", "categories": []}
UNCLEAR = {"kind": "unclear", "categories": []}


def parsed(*answers: object) -> list[dict[str, Any]]:
    """The verdicts of several answers, in one process."""
    found: list[dict[str, Any]] = evaluate("guard.mjs", "args[0].map(parseVerdict)", answers)
    return found


def codes(answer: str) -> list[str]:
    (verdict,) = parsed(answer)
    assert verdict["kind"] == "unsafe"
    return [category["code"] for category in verdict["categories"]]


def test_llama_guards_own_words() -> None:
    safe, unsafe = parsed("\n\nsafe", "\n\nunsafe\nS2")
    assert safe == SAFE
    assert unsafe == {"kind": "unsafe", "categories": [{"code": "S2", "name": "Non-Violent Crimes"}]}


def test_all_fourteen_categories_have_names() -> None:
    (verdict,) = parsed("unsafe\n" + ",".join(f"S{i}" for i in range(1, 15)))
    named = {category["code"]: category["name"] for category in verdict["categories"]}
    assert list(named) == [f"S{i}" for i in range(1, 15)]
    assert named["S1"] == "Violent Crimes"
    assert named["S14"] == "Code Interpreter Abuse"
    assert len(set(named.values())) == 14


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("unsafe\nS10,S2", ["S2", "S10"]),
        ("unsafe\nS1, S1\nS3", ["S1", "S3"]),
        ("UNSAFE\ns9", ["S9"]),
        ("unsafe S4.", ["S4"]),
    ],
)
def test_codes_come_in_order_and_once(answer: str, expected: list[str]) -> None:
    assert codes(answer) == expected


def test_a_code_outside_the_taxonomy_is_shown_as_unknown() -> None:
    (verdict,) = parsed("unsafe\nS15")
    assert verdict["categories"] == [{"code": "S15", "name": "unknown category"}]


@pytest.mark.parametrize("answer", ["unsafe", "unsafe\n", "unsafe\nviolence", "unsafe, because S", "unsafe\nS123"])
def test_unsafe_needs_no_codes(answer: str) -> None:
    assert codes(answer) == []


@pytest.mark.parametrize("answer", ["safe", " Safe.\n", "SAFE"])
def test_safe_stands_alone(answer: str) -> None:
    assert parsed(answer) == [SAFE]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "safely",
        "safe\nS1",
        "safe unsafe",
        "unsafely",
        "not safe",
        "S2",
        "I cannot judge this.",
        "{}",
        "안전",
    ],
)
def test_anything_else_is_unclear(answer: str) -> None:
    assert parsed(answer) == [UNCLEAR]


def test_what_is_no_text_is_unclear() -> None:
    assert parsed(None, 7, ["safe"], {"toString": "safe"}) == [UNCLEAR] * 4
    assert evaluate("guard.mjs", "parseVerdict(undefined)") == UNCLEAR


@settings(max_examples=3)
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=100, max_size=100))
def test_no_text_breaks_the_parser(answers: list[str]) -> None:
    marked = [*answers, *(f"unsafe\n{answer}" for answer in answers)]
    verdicts = parsed(*marked)
    assert {verdict["kind"] for verdict in verdicts[len(answers) :]} == {"unsafe"}
    assert {verdict["kind"] for verdict in verdicts} <= {"safe", "unsafe", "unclear"}
