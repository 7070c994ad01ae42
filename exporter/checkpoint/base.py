"""What every reader returns: a configuration, lazily read tensors under canonical names, and the files.

Canonical naming and layout are Meta's: ``layers.0.attention.wq.weight`` with interleaved rotary pairs and
``[out, in]`` matrices. A reader for another format maps names and permutes rows on the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.config import ModelConfig
from exporter.tensors import RowTensor

if TYPE_CHECKING:
    from exporter.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelInfo:
    """What a model card says; every field may be empty.

    Attributes:
        name: Human-readable model name, also the stem of artifact names, e.g. ``SmolLM2-135M-Instruct``.
        license: SPDX-like identifier, e.g. ``apache-2.0`` or ``llama3.2``.
        organization: Publisher.
        languages: ISO 639-1 codes.
        base_model: Hub id this model derives from.
    """

    name: str
    license: str = ""
    organization: str = ""
    languages: tuple[str, ...] = ()
    base_model: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """One opened checkpoint; no weight has been read yet.

    Attributes:
        path: Folder or file the user named.
        format: ``"meta"``, ``"huggingface"`` or ``"gguf"``.
        config: Resolved hyperparameters.
        tensors: Canonical name -> lazily read tensor, in graph order.
        info: Model card facts.
        files: Every file that defines the model (weights, config, tokenizer), for the manifest.
        load_tokenizer: Reads the tokenizer; raises ``TokenizerError``.
        notes: Decisions worth telling the user, e.g. which RoPE factor a table chose.
        quants: Target -> quantization that the folder asks for where the user names none.
    """

    path: Path
    format: str
    config: ModelConfig
    tensors: Mapping[str, RowTensor]
    info: ModelInfo
    files: tuple[Path, ...]
    load_tokenizer: Callable[[], Tokenizer]
    notes: tuple[str, ...] = field(default=())
    quants: Mapping[str, str] = field(default_factory=dict)
