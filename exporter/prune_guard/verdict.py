"""A guard's answer as a verdict, whatever it says. ``examples/web/guard.mjs`` is the same parser for browsers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPACE = "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
"""What ``String.prototype.trim`` takes off (ECMA-262); Python's own ``strip`` takes off others."""

SAFE, UNSAFE, UNCLEAR = "safe", "unsafe", "unclear"


@dataclass(frozen=True)
class Answer:
    """What a guard has said.

    Attributes:
        kind: ``"safe"``, ``"unsafe"`` or ``"unclear"``.
        categories: Codes in the order of their numbers, ``S1`` and so on; also of hazards that no taxonomy has.
    """

    kind: str
    categories: tuple[str, ...] = ()


def parse_answer(answer: object) -> Answer:
    """The verdict in an answer; never raises.

    Doubt goes against the message: only a bare "safe" is safe, and whatever begins with "unsafe" is unsafe.
    """
    text = answer.strip(_SPACE) if isinstance(answer, str) else ""
    if re.fullmatch(r"safe\.?", text, re.IGNORECASE | re.ASCII):
        return Answer(SAFE)
    if re.match(r"unsafe\b", text, re.IGNORECASE | re.ASCII):
        numbers = {int(number) for number in re.findall(r"\bS(\d{1,2})\b", text, re.IGNORECASE | re.ASCII)}
        return Answer(UNSAFE, tuple(f"S{number}" for number in sorted(numbers)))
    return Answer(UNCLEAR)


def answer_text(categories: tuple[str, ...] | None) -> str:
    """What a guard says: ``"safe"`` for ``None``, or ``"unsafe"`` and the codes on a line of their own."""
    return SAFE if categories is None else "\n".join([UNSAFE, *([",".join(categories)] if categories else [])])
