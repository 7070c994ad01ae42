"""Chat templates: rendered as Hugging Face renders them, in a sandbox."""

from __future__ import annotations

import datetime

import pytest

from exporter.errors import TokenizerError
from exporter.tokenizer import Tokenizer, TokenType

CONVERSATION = [
    {"role": "system", "content": "Answer in one word.\n"},
    {"role": "user", "content": "  What floats?"},
    {"role": "assistant", "content": "Boats"},
    {"role": "tool", "content": '{"depth": 3}'},
    {"role": "user", "content": "And <b>sinks</b> & stays?"},
]


def _tokenizer(template: str | None) -> Tokenizer:
    pieces = ("<s>", "</s>")
    return Tokenizer(
        "bpe", pieces, (TokenType.CONTROL,) * 2, (), pre="gpt-2", bos_id=0, eos_id=1, chat_template=template
    )


def test_llama_3s_format_is_headers_and_ends_of_turn(llama3):
    assert llama3.render_chat(CONVERSATION) == (
        "<|begin_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\nAnswer in one word.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat floats?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBoats<|eot_id|>"
        '<|start_header_id|>ipython<|end_header_id|>\n\n{"depth": 3}<|eot_id|>'
        "<|start_header_id|>user<|end_header_id|>\n\nAnd <b>sinks</b> & stays?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_generation_prompt_is_optional(llama3):
    assert llama3.render_chat(CONVERSATION[:2], add_generation_prompt=False).endswith("What floats?<|eot_id|>")


def test_a_rendered_chat_becomes_special_tokens(llama3):
    ids = llama3.encode(llama3.render_chat(CONVERSATION[:1]), parse_special=True)
    assert ids[:2] == [128000, 128006]
    assert ids.count(128009) == 1


def test_an_unknown_role_is_refused(llama3):
    with pytest.raises(TokenizerError, match="cannot render") as caught:
        llama3.render_chat([{"role": "pirate", "content": "Arr"}])
    assert "pirate" in str(caught.value.found)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\nend",
        "{{ messages | tojson }} {{ {'ü': '<&>'} | tojson(indent=2) }}",
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "{{ eos_token }}{{ strftime_now('%Y') }}{% if add_generation_prompt %}>{% endif %}",
    ],
)
def test_templates_render_as_transformers_renders_them(template):
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template(
        [CONVERSATION], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert _tokenizer(template).render_chat(CONVERSATION) == expected[0]
    assert str(datetime.date.today().year) in expected[0] or "strftime" not in template


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{% if %}", "{{ messages[0]['content'] + 1 }}", "{{ ''.__class__.__mro__ }}"],
)
def test_a_template_that_fails_is_an_error_and_no_traceback(template):
    with pytest.raises(TokenizerError, match="cannot render"):
        _tokenizer(template).render_chat(CONVERSATION)


def test_without_a_template_there_is_no_chat():
    with pytest.raises(TokenizerError, match="no chat template"):
        _tokenizer(None).render_chat(CONVERSATION)
