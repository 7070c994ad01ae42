"""The text of a calibration: read, cut into windows of tokens, and judged fit or unfit for this model."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exporter.errors import CalibrationError
from exporter.tokenizer import Tokenizer

BUILTIN = "builtin"
"""What ``--calibrate`` calls the text that ships with the package."""

MIN_TOKENS = 2048
"""Fewer say too little: the second moments of a layer have as many unknowns as it has inputs, squared."""

FOREIGN = 0.9
"""Tokens a character from which on a tokenizer spells a text byte by byte: the model was hardly trained on it."""

Tokens = npt.NDArray[np.int64]


def documents(text: str, tokenizer: Tokenizer) -> list[list[int]]:
    """The documents that a ``--calibrate`` argument names, as tokens.

    Args:
        text: ``builtin``, a text file (one document), or a ``.jsonl`` file: a document on each line, which is a
        string, an
            object with ``text``, or one with ``messages`` that the model's own chat template renders.
        tokenizer: The model's.

    Raises:
        CalibrationError: If the file cannot be read as what its name says.
        TokenizerError: If the chat template refuses the messages.
    """
    if text == BUILTIN:
        shipped = resources.files("exporter").joinpath("data/calibration.txt").read_text(encoding="utf-8")
        return [tokenizer.encode(shipped)]
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path} cannot be read as text", expected=f"UTF-8 text, .jsonl, or {BUILTIN}", found=str(error)
        ) from None
    if path.suffix != ".jsonl":
        return [tokenizer.encode(content)]
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    return [_record(path, number, line, tokenizer) for number, line in lines]


def _record(path: Path, number: int, line: str, tokenizer: Tokenizer) -> list[int]:
    try:
        value = json.loads(line)
        value = {"text": value} if isinstance(value, str) else value
        if "messages" in value:
            prompt = tokenizer.render_chat(value["messages"], add_generation_prompt=False)
            return tokenizer.encode(prompt, parse_special=True)
        return tokenizer.encode(value["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{path}, line {number} is no document",
            expected='a string, {"text": ...} or {"messages": [...]}',
            found=f"{type(error).__name__}: {error}",
        ) from None


def windows(found: list[list[int]], tokenizer: Tokenizer, n_tokens: int, window: int) -> Tokens:
    """Cut documents into windows of ``window`` tokens, behind the start token if the model has one.

    The documents follow each other in one stream, from which evenly spaced windows are taken, so that a text that is
    longer than needed is seen from beginning to end.

    Returns:
        int64 ``[n, window]``; ``n * window`` is ``n_tokens`` or, if the text is shorter, what it has.

    Raises:
        CalibrationError: If that is less than ``MIN_TOKENS``.
    """
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    length = window - len(start)
    stream = [token for document in found for token in document]
    n = min(n_tokens // window, len(stream) // length)
    if n * window < MIN_TOKENS:
        raise CalibrationError(
            "the calibration text is too short",
            expected=f"at least {MIN_TOKENS} tokens, better {n_tokens}",
            found=f"{len(stream)} tokens",
            hint=f"pass a longer text, or --calibrate {BUILTIN}",
        )
    step = (len(stream) - length) // max(1, n - 1)
    return np.array([start + stream[i * step : i * step + length] for i in range(n)], np.int64)


def digest(tokens: Tokens) -> str:
    """SHA-256 of what the model will see."""
    return hashlib.sha256(np.ascontiguousarray(tokens, "<i8").tobytes()).hexdigest()


def foreign(tokens: Tokens, tokenizer: Tokenizer) -> float | None:
    """Tokens a character where that is suspiciously many, else ``None``."""
    characters = len(tokenizer.decode(int(t) for t in tokens.reshape(-1)))
    share = tokens.size / max(1, characters)
    return share if share > FOREIGN else None
