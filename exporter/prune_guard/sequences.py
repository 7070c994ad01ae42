"""Calibration text: what importance is measured on, and what a pruned model is trained on again.

Two kinds of files: plain text, which is cut into sequences of equal length, and ``.jsonl``, where each line is an
object with a ``text`` or with the ``messages`` of a chat, and becomes a sequence of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifact import sha256_file
from exporter.config import ModelConfig
from exporter.errors import CalibrationError
from exporter.tokenizer import Tokenizer

CHARACTERS_PER_TOKEN = 16
"""More than any text has on average: so much is read for the tokens that are wanted."""
SHORTEST = 2
"""Tokens of a sequence: one to see and one to predict."""

Record = Mapping[str, Any]
HELD_OUT = 5
"""One sequence of so many is neither calibrated nor trained on: what a step costs is measured on it."""


@dataclass(frozen=True)
class Passage:
    """Tokens in a row.

    Attributes:
        tokens: Their ids.
        start: Place of the first one that a model is to say; what comes before only asks for it.
    """

    tokens: Sequence[int]
    start: int = 1


Render = Callable[[Record], Passage]
"""Makes the tokens of a line of ``.jsonl``."""


@dataclass(frozen=True)
class Calibration:
    """Sequences of tokens, and where they came from.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        passages: Each of two tokens or more.
    """

    path: Path
    sha256: str
    passages: Sequence[Passage]

    @property
    def n_tokens(self) -> int:
        return sum(len(passage.tokens) for passage in self.passages)

    @property
    def used(self) -> Sequence[Passage]:
        """What is calibrated and trained on."""
        return [passage for i, passage in enumerate(self.passages, 1) if i % HELD_OUT] or self.passages

    @property
    def held_out(self) -> Sequence[Passage]:
        """What is only measured on; the rest, where there are too few to hold any back."""
        return self.passages[HELD_OUT - 1 :: HELD_OUT] or self.passages

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "sequences": len(self.passages),
            "tokens": self.n_tokens,
        }


def require_context(config: ModelConfig, length: int) -> None:
    """Refuse sequences that a model cannot hold.

    Raises:
        CalibrationError: They are longer than its context.
    """
    if length > config.max_seq_len:
        raise CalibrationError(
            "the sequences are longer than the model's context",
            expected=f"at most {config.max_seq_len} tokens",
            found=length,
            hint="pass a smaller --seq-len",
        )


def read_calibration(
    path: Path, tokenizer: Tokenizer, *, n_sequences: int, length: int, render: Render | None = None
) -> Calibration:
    """Read a file.

    Args:
        path: Plain text, or ``.jsonl``.
        tokenizer: The model's.
        n_sequences: How many sequences to take, from the beginning.
        length: Tokens of a sequence of plain text; the most of a line of ``.jsonl`` that is taken.
        render: Makes the tokens of a line of ``.jsonl``; by default its ``text``, or its ``messages`` as a chat.

    Raises:
        CalibrationError: There is no such file, it is no UTF-8 or no JSON lines, or it does not fill one sequence.
    """
    try:
        if path.suffix == ".jsonl":
            make = render or (lambda record: rendered(record, tokenizer))
            found = list(_lines(path, make, n_sequences, length))
        else:
            found = _cut(path, tokenizer, n_sequences, length)
        digest = sha256_file(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CalibrationError(f"{path} cannot be read", expected="calibration text", found=reason) from None
    if not found:
        raise CalibrationError(
            f"{path} is too short to calibrate on",
            expected=f"at least one sequence of {length if path.suffix != '.jsonl' else SHORTEST} tokens",
            found="less" if path.stat().st_size else "an empty file",
            hint="give more text, or shorter sequences",
        )
    return Calibration(path, digest, found)


def _cut(path: Path, tokenizer: Tokenizer, n_sequences: int, length: int) -> list[Passage]:
    """Sequences of equal length, each after the start token where the model expects one."""
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    body = length - len(start)
    with path.open(encoding="utf-8") as file:
        text = file.read(n_sequences * length * CHARACTERS_PER_TOKEN)
    ids = tokenizer.encode(text)
    n_whole = min(n_sequences, len(ids) // body)
    return [Passage([*start, *ids[i * body : (i + 1) * body]]) for i in range(n_whole)]


def records(path: Path) -> Iterator[Record]:
    """The objects of a ``.jsonl`` file; empty lines are skipped.

    Raises:
        CalibrationError: A line that is no JSON object.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise CalibrationError(
                    f"{path}, line {number} is not JSON", expected="one JSON object a line", found=error
                ) from None
            if not isinstance(record, dict):
                raise CalibrationError(
                    f"{path}, line {number} is not a JSON object", expected="{…}", found=type(record).__name__
                )
            yield record


def _lines(path: Path, render: Render, n_sequences: int, length: int) -> Iterator[Passage]:
    n_found = 0
    for record in records(path):
        passage = render(record)
        if len(passage.tokens) >= SHORTEST:
            yield Passage(passage.tokens[:length], passage.start)
            n_found += 1
        if n_found == n_sequences:
            return


def rendered(record: Record, tokenizer: Tokenizer) -> Passage:
    """A line with a ``text``, or with the ``messages`` of a chat.

    Raises:
        CalibrationError: It has neither.
    """
    if isinstance(record.get("text"), str):
        return Passage(tokenizer.encode(record["text"], add_bos=tokenizer.add_bos))
    if isinstance(record.get("messages"), list):
        return Passage(tokenizer.encode(tokenizer.render_chat(record["messages"], False), parse_special=True))
    raise CalibrationError(
        "a line of calibration data has nothing to run on", expected="text or messages", found=", ".join(record) or "{}"
    )
