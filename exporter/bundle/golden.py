"""Golden answers: what the artifact said here to three prompts, token by token, for a phone to compare with."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.targets.base import Runtime
from exporter.tokenizer import Tokenizer

PROMPTS = ("What is the capital of France?", "Name three colours.", "Count from one to five.")
N_TOKENS = 16
"""Tokens of an answer; enough for a wrong cache to show, and over in a second on a phone."""


@dataclass(frozen=True)
class Golden:
    """A prompt and what follows it when the likeliest token is always taken.

    Attributes:
        prompt: Text with special tokens by their names; what the artifact's tokenizer makes of it is ``prompt_ids``.
        prompt_ids: Its tokens.
        answer_ids: At most ``N_TOKENS`` tokens, without the one that ended them.
    """

    prompt: str
    prompt_ids: list[int]
    answer_ids: list[int]


def golden_answers(tokenizer: Tokenizer, runtime: Runtime, context_length: int) -> list[Golden]:
    """Ask the runtime. A model without a chat template continues plain text."""
    found = []
    for question in PROMPTS:
        prompt = question
        if tokenizer.chat_template is not None:
            # A date would make tomorrow's prompt another one.
            message = {"role": "user", "content": question}
            prompt = tokenizer.render_chat([message], strftime_now=lambda form: "26 Jul 2024")
        add_bos = tokenizer.chat_template is None and tokenizer.add_bos
        ids = tokenizer.encode(prompt, parse_special=True, add_bos=add_bos)
        found.append(Golden(prompt, ids, runtime.greedy(ids, min(N_TOKENS, context_length - len(ids)))))
    return found
