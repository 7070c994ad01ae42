"""Labelled conversations: a ``.jsonl`` whose lines have ``messages``, a ``label`` and, if unsafe, ``categories``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import CalibrationError
from exporter.guard import PROMPTED
from exporter.prune_guard.kept_tokens import end_of_answer
from exporter.prune_guard.prompt import GuardError, Messages, prompt_tokens
from exporter.prune_guard.sequences import Passage, records, rendered
from exporter.tokenizer import Tokenizer

SAFE, UNSAFE = "safe", "unsafe"
"""The verdicts, as labels and in answers."""


@dataclass(frozen=True)
class Example:
    """One conversation and what is true of its last message.

    Attributes:
        messages: ``{"role": "user" | "assistant", "content": text}``, taking turns.
        categories: Codes of the hazards; ``None`` if it is safe.
    """

    messages: Messages
    categories: tuple[str, ...] | None

    @property
    def is_unsafe(self) -> bool:
        return self.categories is not None


def example(record: Mapping[str, Any]) -> Example:
    """A line of guard data.

    Raises:
        GuardError: It has no messages, no label, or hazards outside the taxonomy.
    """
    messages, label = record.get("messages"), record.get("label")
    categories = record.get("categories", [])
    if not isinstance(messages, list) or label not in (SAFE, UNSAFE):
        raise GuardError(
            "a line of guard data is not labelled",
            expected='{"messages": […], "label": "safe" | "unsafe", "categories": ["S1", …]}',
            found=f"label {label!r}, fields {', '.join(record) or 'none'}",
        )
    if not isinstance(categories, list) or not set(categories) <= PROMPTED.keys() or (label == SAFE and categories):
        raise GuardError(
            "a line of guard data has impossible categories",
            expected=f"codes from {', '.join(PROMPTED)} where the label is unsafe",
            found=repr(categories)[:80],
        )
    return Example(messages, tuple(categories) if label == UNSAFE else None)


def read_examples(path: Path) -> list[Example]:
    """The examples of a file.

    Raises:
        CalibrationError: The file cannot be read, or a line is no JSON object.
        GuardError: A line is no example; or not both labels occur.
    """
    try:
        found = list(_numbered(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CalibrationError(f"{path} cannot be read", expected="guard data, .jsonl", found=reason) from None
    n_unsafe = sum(e.is_unsafe for e in found)
    if not 0 < n_unsafe < len(found):
        raise GuardError(
            f"{path} has examples of one label only",
            expected="safe and unsafe ones",
            found=f"{len(found)} examples, {n_unsafe} of them unsafe",
        )
    return found


def _numbered(path: Path) -> Iterator[Example]:
    for number, record in enumerate(records(path), 1):
        try:
            yield example(record)
        except GuardError as error:
            error.message = f"{path}, example {number}: {error.message}"
            raise


def answer_text(categories: tuple[str, ...] | None) -> str:
    """What a guard says: ``"safe"`` for ``None``, or ``"unsafe"`` and the codes on a line of their own."""
    return SAFE if categories is None else "\n".join([UNSAFE, *([",".join(categories)] if categories else [])])


def training_passage(example: Example, tokenizer: Tokenizer) -> Passage:
    """Prompt, answer and the token that ends it: what a guard is calibrated and trained on."""
    end = end_of_answer(tokenizer)
    prompt = prompt_tokens(example.messages, tokenizer)
    answer = tokenizer.encode(answer_text(example.categories))
    return Passage([*prompt, *answer, *([] if end is None else [end])], len(prompt))


def passage(record: Mapping[str, Any], tokenizer: Tokenizer) -> Passage:
    """Any line of ``.jsonl``: a labelled conversation, a text, or a chat.

    Raises:
        GuardError: It has a label, and is no :func:`example`.
        CalibrationError: It has nothing to run on.
    """
    return training_passage(example(record), tokenizer) if "label" in record else rendered(record, tokenizer)
