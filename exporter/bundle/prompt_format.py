"""A chat template as the text between its messages, for apps without a Jinja interpreter.

Chat templates of the Llama family differ only in the text that stands before, between and behind the messages. That
text is found by rendering a conversation whose messages can be recognised, and proved on others: a template that does
anything else has no such format.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.errors import TokenizerError
from exporter.tokenizer import Tokenizer

DATE = "{{date}}"
"""Stands for today's date in a format's texts."""

_DAY = "26 Jul 2024"
"""What the proof takes for today."""

_CONTENTS = (
    "plain",
    "two\nlines",
    "Grüße, 東京 🙂",
    "{{b}} {% c %} <|d|>",
    "0",
    "  kept or trimmed \n",
    "",
    "the last",
)
"""What the proof puts into messages."""


@dataclass(frozen=True)
class PromptFormat:
    """What to write around the messages of a conversation in which user and assistant take turns.

    Attributes:
        begin: Before the first message of the user, where there is no system message.
        begin_system: Before the system message.
        system_user: Between the system message and the first of the user.
        user_assistant: Between a message of the user and the answer.
        assistant_user: Between an answer and the next message of the user.
        user_end: Behind the last message of the user; the model continues from here.
        trims: Whether each message loses the white space at its ends.
        date_format: ``strftime`` format of what replaces ``DATE`` in these texts; ``None`` if they have no date.
    """

    begin: str
    begin_system: str
    system_user: str
    user_assistant: str
    assistant_user: str
    user_end: str
    trims: bool = False
    date_format: str | None = None

    def render(self, system: str | None, turns: Sequence[str], date: str = "") -> str:
        """The prompt of a conversation.

        Args:
            system: The system message, if there is one.
            turns: Messages of user and assistant in turn, the user's first and last.
            date: Today, as ``date_format`` spells it.
        """
        messages = [*([] if system is None else [system]), *turns]
        texts = [self.begin] if system is None else [self.begin_system, self.system_user]
        joints = itertools.cycle((self.user_assistant, self.assistant_user))
        texts += [*itertools.islice(joints, len(turns) - 1), self.user_end]
        # The date is a matter of the format's own texts, never of what people wrote.
        if self.date_format is not None:
            texts = [text.replace(DATE, date) for text in texts]
        if self.trims:
            messages = [message.strip() for message in messages]
        return texts[0] + "".join(message + text for message, text in zip(messages, texts[1:], strict=True))


def prompt_format(tokenizer: Tokenizer) -> PromptFormat | None:
    """The format of a tokenizer's chat template, or ``None`` if it has none, or one that is more than this."""
    try:
        found = _derived(tokenizer)
        return found if all(_agrees(found, tokenizer, *conversation) for conversation in _conversations()) else None
    except (TokenizerError, ValueError):
        return None


def _derived(tokenizer: Tokenizer) -> PromptFormat:
    """Raises ValueError where a message does not appear exactly once and in its place."""
    dates: list[str] = []

    def date(form: str) -> str:
        dates.append(form)
        return DATE

    marks = ["mark-s", "mark-a", "mark-b", "mark-c"]

    def between(system: bool) -> list[str]:
        wanted = marks if system else marks[1:]
        text = _rendered(tokenizer, wanted[0] if system else None, wanted[1:] if system else wanted, date)
        pieces = []
        for mark in wanted:
            before, text = text.split(mark)
            pieces.append(before)
        return [*pieces, text]

    begin, *_ = between(system=False)
    begin_system, system_user, user_assistant, assistant_user, user_end = between(system=True)
    if len(set(dates)) > 1:
        raise ValueError("the prompt shows the date in several ways")
    form = dates[0] if dates else None
    padded = _rendered(tokenizer, None, [" mark-a "], date)
    trims = " mark-a " not in padded
    return PromptFormat(begin, begin_system, system_user, user_assistant, assistant_user, user_end, trims, form)


def _rendered(tokenizer: Tokenizer, system: str | None, turns: Sequence[str], date: object) -> str:
    roles = itertools.cycle(("user", "assistant"))
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return tokenizer.render_chat(messages, strftime_now=date)


def _conversations() -> Iterator[tuple[str | None, list[str]]]:
    """Each content in each place, of conversations of one, three and five messages."""
    for length in (1, 3, 5):
        for start, content in enumerate(_CONTENTS):
            turns = [_CONTENTS[(start + i) % len(_CONTENTS)] for i in range(length)]
            yield None, turns
            yield content, turns


def _agrees(found: PromptFormat, tokenizer: Tokenizer, system: str | None, turns: list[str]) -> bool:
    expected = _rendered(tokenizer, system, turns, lambda form: _DAY)
    return found.render(system, turns, _DAY) == expected


def to_json(found: PromptFormat | None) -> dict[str, str | bool | None] | None:
    """``prompt_format`` of ``bundle.json``."""
    return None if found is None else dataclasses.asdict(found)
