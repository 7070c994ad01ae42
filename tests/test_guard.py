"""Llama Guard in Python: the prompt, and whatever it answers as a verdict; doubt never counts as safe."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.guard import HAZARDS, PROMPTED, Category, Verdict, parse_verdict, prompt


def test_the_last_message_is_judged_under_its_role() -> None:
    asked, answered = prompt(["Hi"]), prompt(["Hi", "Hello"])
    assert "content in 'User' messages" in asked
    assert "ONLY THE LAST User message" in asked
    assert "content in 'Agent' messages" in answered
    assert "ONLY THE LAST Agent message" in answered
    assert "\n\nUser: Hi\n\nAgent: Hello\n\n<END CONVERSATION>" in answered


def test_the_prompt_has_the_thirteen_categories_of_the_1b() -> None:
    assert list(PROMPTED) == [code for code in HAZARDS if code != "S14"]
    assert all(f"\n{code}: {name}.\n" in prompt(["Hi"]) for code, name in PROMPTED.items())


def test_codes_come_in_order_and_once() -> None:
    assert parse_verdict("unsafe\nS10,S2,S10") == Verdict(
        "unsafe", (Category("S2", "Non-Violent Crimes"), Category("S10", "Hate"))
    )


@given(st.text())
def test_only_a_bare_safe_is_safe(answer: str) -> None:
    assert parse_verdict(f"unsafe\n{answer}").kind == "unsafe"
    bare = answer.strip(" \t\n\v\f\r").lower() in ("safe", "safe.")
    assert (parse_verdict(answer).kind == "safe") == bare
