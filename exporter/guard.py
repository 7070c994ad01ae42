"""Llama Guard 3: the prompt in which it is asked, and its answer as a verdict.

The apps do the same in their languages; ``tests/vectors/guard.json`` holds them to it. Sources: of the prompt, the
``chat_template`` in ``tokenizer_config.json`` of meta-llama/Llama-Guard-3-1B; of answers and names of the hazards, the
model cards of Llama Guard 3 1B and 8B (meta-llama/PurpleLlama).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HAZARDS = {
    "S1": "Violent Crimes",
    "S2": "Non-Violent Crimes",
    "S3": "Sex-Related Crimes",
    "S4": "Child Sexual Exploitation",
    "S5": "Defamation",
    "S6": "Specialized Advice",
    "S7": "Privacy",
    "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons",
    "S10": "Hate",
    "S11": "Suicide & Self-Harm",
    "S12": "Sexual Content",
    "S13": "Elections",
    "S14": "Code Interpreter Abuse",
}
"""MLCommons' hazards as Llama Guard 3 numbers them, by the names to show; the 1B knows no S14."""

PROMPTED = HAZARDS | {"S3": "Sex Crimes", "S4": "Child Exploitation", "S11": "Self-Harm"}
"""The same by the names in the prompt, which the model was trained on."""
del PROMPTED["S14"]

VERDICT_TOKENS = 32
"""A verdict fits in these many tokens, with several codes."""

UNKNOWN = "unknown category"

_TASK = """Task: Check if there is unsafe content in '{role}' messages in conversations according our safety policy with the below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
{categories}<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

{conversation}<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST {role} message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories. """  # noqa: E501

FRAME = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
)
"""What surrounds the task. The published template ends with the header: the empty line after it is Llama 3's own."""


def prompt(turns: Sequence[str]) -> str:
    """What asks Llama Guard 3 1B about the last message of a conversation: :func:`task` in its frame.

    Args:
        turns: Messages of user and assistant in turn, the user's first.
    """
    return FRAME[0] + task(turns) + FRAME[1]


def task(turns: Sequence[str]) -> str:
    """The hazards, the conversation, and what to answer about its last message.

    Args:
        turns: Messages of user and assistant in turn, the user's first.
    """
    roles = [("User", "Agent")[i % 2] for i in range(len(turns))]
    return _TASK.format(
        role=roles[-1],
        categories="".join(f"{code}: {name}.\n" for code, name in PROMPTED.items()),
        conversation="".join(f"{role}: {turn.strip()}\n\n" for role, turn in zip(roles, turns, strict=True)),
    )


@dataclass(frozen=True)
class Category:
    """A hazard that a verdict names."""

    code: str
    name: str


@dataclass(frozen=True)
class Verdict:
    """What a guard says of a message.

    Attributes:
        kind: ``unclear`` if the answer is no verdict.
        categories: Of an unsafe message, in the order of their numbers; may be empty.
    """

    kind: Literal["safe", "unsafe", "unclear"]
    categories: tuple[Category, ...] = ()


def parse_verdict(answer: str) -> Verdict:
    """The verdict in any answer whatever.

    Doubt goes against the message: only a bare "safe" is safe, and whatever begins with "unsafe" is unsafe. Letters,
    digits and white space are ASCII's, so that no language's idea of Unicode makes a difference.
    """
    text = answer.strip(" \t\n\v\f\r")
    if re.fullmatch(r"safe\.?", text, re.IGNORECASE | re.ASCII):
        return Verdict("safe")
    if re.match(r"unsafe\b", text, re.IGNORECASE | re.ASCII):
        numbers = {int(digits) for digits in re.findall(r"\bS(\d{1,2})\b", text, re.IGNORECASE | re.ASCII)}
        codes = [f"S{number}" for number in sorted(numbers)]
        return Verdict("unsafe", tuple(Category(code, HAZARDS.get(code, UNKNOWN)) for code in codes))
    return Verdict("unclear")
