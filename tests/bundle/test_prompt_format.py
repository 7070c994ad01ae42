"""A chat template as the text between its messages: exact, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bundle.prompt_format import DATE, PromptFormat, prompt_format
from tests.fixtures.templates import DATED, FORMATTED, tokenizer

MORE = {
    "counts its messages": "{% for m in messages %}{{ loop.index }}. {{ m['content'] }}\n{% endfor %}",
    "repeats a message": "{% for m in messages %}{{ m['content'] }}/{{ m['content'] }}\n{% endfor %}",
    "shouts": "{% for m in messages %}{{ m['content'] | upper }}\n{% endfor %}",
    "leaves out the system message": "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}\n{% endfor %}",
    "knows one word": "{% for m in messages %}{{ m['content'] }}{% if m['content'] == '0' %}!{% endif %}\n{% endfor %}",
    "ends the third otherwise": "{% for m in messages %}{{ m['content'] + '#|||'[loop.index % 3] }}{% endfor %}",
    "two dates": "{{ strftime_now('%Y') + strftime_now('%d') }}{% for m in messages %}{{ m['content'] }}|{% endfor %}",
    "refuses": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("name", FORMATTED)
@given(system=st.none() | st.text(max_size=30), turns=st.lists(st.text(max_size=30), min_size=1, max_size=7))
def test_it_renders_what_the_template_renders(name: str, system: str | None, turns: list[str]) -> None:
    turns = turns if len(turns) % 2 else turns[:-1]
    chat, day = tokenizer(FORMATTED[name]), "26 Jul 2024"
    found = prompt_format(chat)
    assert found is not None
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    assert found.render(system, turns, day) == chat.render_chat(messages, strftime_now=lambda form: day)


@pytest.mark.parametrize("name", MORE)
def test_a_template_that_is_more_than_text_between_messages_has_none(name: str) -> None:
    assert prompt_format(tokenizer(MORE[name])) is None


def test_a_base_model_has_none() -> None:
    assert prompt_format(tokenizer(None)) is None


def test_a_date_is_named_by_its_format() -> None:
    found = prompt_format(tokenizer(DATED))
    assert found is not None
    assert found.date_format == "%d %b %Y"
    assert DATE in found.begin


def test_a_message_that_looks_like_the_date_stays_what_it_is() -> None:
    form = PromptFormat(f"{DATE}|", "", "", "", "", "|", date_format="%Y")
    assert form.render(None, [DATE], "2024") == f"2024|{DATE}|"
