"""The tokenizer that lies beside the weights: which files it has, and how to load it when somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.tokenizer import Tokenizer

TIKTOKEN = "tokenizer.model"
"""Meta's file of a Llama 3 vocabulary, as tiktoken reads it."""

NAMES = (
    "tokenizer.json",
    TIKTOKEN,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Those files of ``folder`` that describe the tokenizer."""
    return tuple(folder / name for name in NAMES if (folder / name).is_file())


def tokenizer_loader(folder: Path, vocab_size: int) -> Callable[[], Tokenizer]:
    """A thunk that reads the tokenizer and pads it to the rows of the embedding; raises ``TokenizerError``."""

    def load() -> Tokenizer:
        from exporter.tokenizer import load_tokenizer_folder

        return load_tokenizer_folder(folder).padded(vocab_size)

    return load
