"""Chat templates, executed as Hugging Face executes them.

Source: transformers ``utils/chat_template_utils.py`` (sandbox, whitespace flags, helper functions). A template comes
with the checkpoint, from a stranger, hence the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NoReturn

from exporter.errors import TokenizerError

if TYPE_CHECKING:
    from jinja2 import Template


def llama3_template() -> str:
    """Our Jinja source for the Llama 3 instruct format, for Meta's folders, which carry none."""
    return (files("exporter") / "data" / "llama3_chat.jinja").read_text(encoding="utf-8")


def render(template: str | None, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """Execute a chat template.

    Args:
        template: Jinja source.
        messages: ``{"role", "content"}`` mappings in order.
        variables: What else the template sees: ``add_generation_prompt``, ``bos_token``, ...

    Raises:
        TokenizerError: No template, one that is no Jinja, or one that refuses these messages.
    """
    from jinja2 import TemplateError

    if template is None:
        raise TokenizerError(
            "this tokenizer has no chat template",
            expected="chat_template in tokenizer_config.json, chat_template.jinja or tokenizer.chat_template",
            hint="a base model continues plain text; chat needs an instruct model",
        )
    try:
        return _compiled(template).render(messages=messages, **variables)
    except (TemplateError, TypeError) as error:
        raise TokenizerError("the chat template cannot render these messages", found=error) from error


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which a prompt is not.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
