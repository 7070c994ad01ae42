"""The guard's prompt (:mod:`exporter.guard`) as tokens, in any vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporter import guard
from exporter.errors import ExporterError
from exporter.tokenizer import Tokenizer

LLAMA3_ANSWER_PREFIX = "\n\n"
"""The published template ends with the header, so that a Llama 3 says the empty line after it itself."""
_HEADER = "<|start_header_id|>"
_PLACE = "\ue000conversation\ue000"
"""Stands for the task in a chat template; private-use characters that no template contains."""

Messages = Sequence[Mapping[str, Any]]


class GuardError(ExporterError):
    """A conversation, an answer format or guard data that a guard cannot work with."""


def turns(messages: Messages) -> list[str]:
    """The texts of a conversation.

    Raises:
        GuardError: It is empty, has other roles than user and assistant, or these do not take turns.
    """
    if not messages:
        raise GuardError(
            "a conversation without messages cannot be judged", expected="one message or more", found="none"
        )
    return [_text(index, message) for index, message in enumerate(messages)]


def _text(index: int, message: Mapping[str, Any]) -> str:
    expected = ("user", "assistant")[index % 2]
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if role != expected or not isinstance(content, str):
        raise GuardError(
            f"message {index + 1} of the conversation cannot be judged",
            expected=f"role {expected}, and a text as content: user and assistant take turns",
            found=f"role {role!r}, content {type(content).__name__}",
        )
    return content


def prompt_tokens(messages: Messages, tokenizer: Tokenizer) -> list[int]:
    """The tokens of the prompt, up to where the verdict begins.

    In a Llama 3 vocabulary the task stands in the headers of a Llama 3 chat, in any other in the model's own chat
    template. What people have written is text everywhere: a special token's name in it is no special token.

    Args:
        messages: ``{"role": "user" | "assistant", "content": text}``, taking turns.
        tokenizer: The guard's.

    Raises:
        GuardError: See :func:`turns`; or the chat template leaves the task out.
        TokenizerError: There is no chat template to take.
    """
    before, after = guard.FRAME if _HEADER in tokenizer.special_tokens else _chat_frame(tokenizer)
    return [
        *tokenizer.encode(before, parse_special=True),
        *tokenizer.encode(guard.task(turns(messages))),
        *tokenizer.encode(after, parse_special=True),
    ]


def _chat_frame(tokenizer: Tokenizer) -> tuple[str, str]:
    """What the chat template puts around a user's message."""
    rendered = tokenizer.render_chat([{"role": "user", "content": _PLACE}])
    before, place, after = rendered.partition(_PLACE)
    if not place:
        raise GuardError(
            "the chat template leaves the message out", expected="a template for texts", found=rendered[:80]
        )
    return before, after
