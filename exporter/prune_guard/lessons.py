"""Passages as a student works through them: which tokens it sees, and what it is to say where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.config import ModelConfig
from exporter.errors import CalibrationError
from exporter.prune_guard.sequences import Passage

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lesson:
    """One passage.

    Attributes:
        tokens: What enters, int64 ``[n_tokens]``; the last token of a passage never does.
        wanted: Positions whose next token is to be said, int64 ``[n]``.
        labels: Rows of the head that say it, int64 ``[n]``.
    """

    tokens: Integers
    wanted: Integers
    labels: Integers


def lessons(passages: Iterable[Passage], config: ModelConfig) -> list[Lesson]:
    """The lessons of some passages; one with nothing to say is left out.

    Of a text, a head with some tokens learns the places where one of these follows. An answer it must be able to give
    whole.

    Raises:
        CalibrationError: An answer needs a token that the head has no row for; or nothing is left to learn.
    """
    found = [lesson for passage in passages if len((lesson := _lesson(passage, config)).wanted)]
    if not found:
        raise CalibrationError(
            "the data has nothing to learn",
            expected="passages with tokens to say within --seq-len",
            found="none",
            hint="give longer sequences, or more text",
        )
    return found


def _lesson(passage: Passage, config: ModelConfig) -> Lesson:
    tokens = np.array(passage.tokens, np.int64)
    said = np.arange(max(1, passage.start), len(tokens))
    rows = tokens[said]
    if config.kept_tokens is not None:
        kept = np.array(config.kept_tokens, np.int64)
        rows = np.searchsorted(kept, tokens[said]).clip(max=len(kept) - 1)
        has_row = kept[rows] == tokens[said]
        if passage.start > 1 and not has_row.all():
            raise CalibrationError(
                "an answer in the data cannot be said by the pruned head",
                expected="tokens among the kept ones",
                found=f"token {tokens[said][~has_row][0]}",
                hint="keep more tokens: --keep-tokens",
            )
        said, rows = said[has_row], rows[has_row]
    return Lesson(tokens[:-1], said - 1, rows)


def digest(found: Sequence[Lesson]) -> str:
    """SHA-256 over everything in some lessons."""
    state = hashlib.sha256()
    for lesson in found:
        for array in (lesson.tokens, lesson.wanted, lesson.labels):
            state.update(len(array).to_bytes(8, "little") + array.tobytes())
    return state.hexdigest()
