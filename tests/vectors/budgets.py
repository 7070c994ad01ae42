"""``budgets.json``: how much of a conversation goes into a prompt, so that the answer has room too.

The apps have no tokenizer of their own. A message that no model has read yet is counted by its bytes: no tokenizer that
falls back to bytes makes more tokens of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TOO_LONG = "the message is too long: {needed} of {context_length} tokens, and {answer_tokens} are kept for the answer"

CASES = {
    "everything fits": (100, 20, 10, [5]),
    "everything fits exactly": (100, 20, 10, [30, 20, 20]),
    "the oldest exchange is left out": (100, 20, 10, [30, 20, 21]),
    "two exchanges are left out": (100, 20, 10, [40, 40, 30, 30, 20]),
    "only the last message stays": (100, 20, 10, [1, 1, 1, 1, 70]),
    "the last message fits exactly": (100, 20, 10, [9, 9, 70]),
    "the last message is too long": (100, 20, 10, [9, 9, 71]),
    "the frame alone is too long": (100, 20, 81, [0]),
    "an answer keeps its question": (100, 0, 10, [50, 30]),
    "an answer keeps its question only": (100, 0, 10, [50, 50, 50, 40]),
    "an answer and its question are too long": (100, 0, 10, [50, 50, 50, 41]),
    "nothing is kept for the answer": (100, 0, 0, [100]),
}
"""What is special -> context length, tokens kept for the answer, tokens of the frame, tokens of each message."""

TEXTS = ("", "abc", "Grüße", "東京", "🙂", "a\nb", "\x00")


def plan(context_length: int, answer_tokens: int, frame: int, turns: Sequence[int]) -> dict[str, Any]:
    """Leave out whole exchanges, the oldest first, never the last message nor the question to a last answer.

    Args:
        context_length: Tokens of prompt and answer together.
        answer_tokens: Tokens that must remain for the answer.
        frame: Tokens around the messages.
        turns: Tokens of each message of user and assistant in turn.

    Returns:
        ``dropped``, messages left out, and ``max_new_tokens``, what remains for the answer; or ``message``.
    """
    dropped = 0
    while len(turns) - dropped > 2 and frame + sum(turns[dropped:]) + answer_tokens > context_length:
        dropped += 2
    needed = frame + sum(turns[dropped:])
    if needed + answer_tokens > context_length:
        message = TOO_LONG.format(needed=needed, context_length=context_length, answer_tokens=answer_tokens)
        return {"message": message}
    return {"dropped": dropped, "max_new_tokens": context_length - needed}


def vectors() -> dict[str, Any]:
    names = ("context_length", "answer_tokens", "frame", "turns")
    return {
        "plans": [
            {"about": about} | dict(zip(names, case, strict=True)) | plan(*case) for about, case in CASES.items()
        ],
        "tokens_at_most": [{"text": text, "tokens": len(text.encode())} for text in TEXTS],
    }
