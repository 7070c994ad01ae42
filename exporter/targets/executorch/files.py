"""The small files beside a program: the tokenizer that the runner takes, and what the program cannot say of itself."""

from __future__ import annotations

import json
from typing import Any

from exporter.config import ModelConfig
from exporter.targets import hf_files
from exporter.targets.hf_files import generation_config, model_config, tokenizer_config
from exporter.tokenizer import Tokenizer
from exporter.tokenizer.pretokenizers import DIGIT

FOLDER = "executorch"
CONTEXT = 2048
"""Positions that the cache has at most. A cache of the 131072 positions of Llama 3.2 1B takes 8 GiB; what people chat
with on a phone is a hundredth of it, and the memory is taken when the program is loaded."""


def context_length(config: ModelConfig) -> int:
    """Positions that an exported model has, in tokens: the model's own, or what the cache holds."""
    return min(config.max_seq_len, CONTEXT)


def render(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """Path below the output folder -> text."""
    documents = {
        "config.json": model_config(config.replace(max_seq_len=context_length(config)), tokenizer),
        "generation_config.json": generation_config(tokenizer),
        "tokenizer_config.json": tokenizer_config(tokenizer, context_length(config)),
    }
    texts = {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}
    texts["tokenizer.json"] = json.dumps(tokenizer_json(tokenizer), ensure_ascii=False)
    return {f"{FOLDER}/{name}": text for name, text in texts.items()}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """``tokenizer.json`` as the runner's own tokenizer reads it (pytorch_tokenizers 1.5, ``pre_tokenizer.cpp``).

    Of a ``Split`` it keeps what the regex matches and drops the text between: a split at digits must be ``Digits``.
    """
    document = hf_files.tokenizer_json(tokenizer)
    chain = (document["pre_tokenizer"] or {}).get("pretokenizers", [])
    for index, step in enumerate(chain):
        if step.get("pattern") == {"Regex": DIGIT}:
            chain[index] = {"type": "Digits", "individual_digits": True}
    return document
