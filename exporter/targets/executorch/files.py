"""The small files beside a program: the tokenizer that the runner takes, and what the program cannot say of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from exporter.checkpoint.tokenizer_files import TIKTOKEN
from exporter.ir.build import config_of
from exporter.targets import hf_files
from exporter.targets.base import PlannedFile, Subject
from exporter.targets.executorch import wheel
from exporter.targets.executorch.capabilities import ExecuTorchQuant
from exporter.targets.hf_files import generation_config, model_config, tokenizer_config
from exporter.tokenizer import Tokenizer
from exporter.tokenizer.pretokenizers import DIGIT

FOLDER = "executorch"
CONTEXT = 2048
"""Positions of the cache unless more are asked for. A cache of the 131072 positions of Llama 3.2 1B takes 8 GiB; what
people chat with on a phone is a hundredth of it, and the memory is taken when the program is loaded."""

PACKAGES = {
    "maven": f"org.pytorch:executorch-android:{wheel.RELEASE}",
    "swift": f"https://github.com/pytorch/executorch#swiftpm-{wheel.RELEASE}",
}
"""Where apps get the runtime; its releases belong to programs of the same release."""


def context_length(subject: Subject) -> int:
    """Positions that an exported model has, in tokens."""
    known = config_of(subject.model).max_seq_len
    return known if subject.context_asked else min(known, CONTEXT)


def context_note(held: int, known: int, takes: str) -> str:
    """What the user should hear of a cache of ``held`` positions where the model knows ``known``."""
    positions = f"{held} positions" if held == known else f"{held} of the model's {known} positions"
    ask = "" if held == known else "; --max-seq-len asks for another number"
    return f"the cache holds {positions}{takes}{ask}"


def render(subject: Subject, artifacts: Mapping[ExecuTorchQuant, Sequence[PlannedFile]]) -> dict[str, str | bytes]:
    """Path below the output folder -> content; ``artifacts`` maps rows to the files of their programs."""
    tokenizer, length = subject.tokenizer, context_length(subject)
    documents = {
        "config.json": model_config(config_of(subject.model).replace(max_seq_len=length), tokenizer),
        "generation_config.json": generation_config(tokenizer),
        "tokenizer_config.json": tokenizer_config(tokenizer, length),
        "runtime.json": _runtime(tokenizer, length, artifacts),
    }
    found: dict[str, str | bytes] = {
        name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()
    }
    found["tokenizer.json"] = json.dumps(tokenizer_json(tokenizer), ensure_ascii=False)
    if subject.tiktoken is not None:
        found[TIKTOKEN] = subject.tiktoken.read_bytes()
    return {f"{FOLDER}/{name}": content for name, content in found.items()}


def _runtime(
    tokenizer: Tokenizer, length: int, artifacts: Mapping[ExecuTorchQuant, Sequence[PlannedFile]]
) -> dict[str, Any]:
    """What an app needs before it loads a program: which runtime, how long a chat, where it ends.

    Documented in ``docs/executorch.md``.
    """
    return {
        "runtime": wheel.PACKAGE,
        "version": wheel.RELEASE,
        "torch": wheel.CHECKED[wheel.RELEASE],
        "packages": PACKAGES,
        "programs": [_program(quant, files) for quant, files in artifacts.items()],
        "context_length": length,
        "bos_id": tokenizer.bos_id,
        "stop_ids": list(tokenizer.stop_ids),
        "special_tokens": list(tokenizer.special_tokens),
    }


def _program(quant: ExecuTorchQuant, files: Sequence[PlannedFile]) -> dict[str, Any]:
    program, *data = (PurePosixPath(file.path).name for file in files)
    return {"program": program, "data": data, "quant": quant.name, "backend": quant.backend}


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
