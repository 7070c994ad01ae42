"""Which of the two folder formats a tokenizer is in."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import TokenizerError
from exporter.tokenizer.huggingface import read_huggingface
from exporter.tokenizer.meta import read_meta
from exporter.tokenizer.tokenizer import Tokenizer


def load_tokenizer_folder(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: Hugging Face's ``tokenizer.json`` if there, else Meta's ``tokenizer.model``.

    ``tokenizer.json`` goes first because the files around it also know the chat template and the stop tokens.

    Raises:
        TokenizerError: Neither file is there, or the one that is cannot be used.
    """
    if (folder / "tokenizer.json").is_file():
        return read_huggingface(folder)
    if (folder / "tokenizer.model").is_file():
        return read_meta(folder)
    raise TokenizerError(
        f"{folder} has no tokenizer",
        expected="tokenizer.json (Hugging Face) or tokenizer.model (Meta)",
        found=", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing",
        hint="download the tokenizer files of the same model into this folder",
    )
