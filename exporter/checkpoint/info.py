"""What a checkpoint says about itself besides its numbers: a name for files, a licence, a publisher."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from exporter.checkpoint.base import ModelInfo

# Type names of ggml and of this exporter as file names carry them: Q4_K_M, IQ2_XXS, TQ1_0, BF16, int4, MXFP4_MOE …
_QUANT_SUFFIX = re.compile(r"[.-](?:b?f16|f32|i?q\d\w*|tq\d\w*|(?:mx|nv)fp4\w*|int[48])$", re.IGNORECASE)

SPLIT_SUFFIX = re.compile(r"-(\d{5})-of-(\d{5})$")
"""How llama.cpp (``llama_split_path``) and transformers number the parts of one model, at the end of the stem."""


def clean_name(text: str) -> str:
    """``text`` as one word that every file system and shell accepts; ``model`` where nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "model"


def name_of_gguf(path: Path) -> str:
    """The model's name in a GGUF file name: ``SmolLM2-135M-Instruct.Q4_1.gguf`` -> ``SmolLM2-135M-Instruct``."""
    return clean_name(_QUANT_SUFFIX.sub("", SPLIT_SUFFIX.sub("", path.stem)))


def read_model_card(folder: Path, name: str) -> ModelInfo:
    """``name``, with the facts that the front matter of the folder's ``README.md`` adds, if there is one.

    The keys are the Hub's (``license``, ``license_name``, ``language``, ``base_model``).
    """
    card = _front_matter(folder)
    license_ = _first(card.get("license"))
    return ModelInfo(
        name=clean_name(name),
        license=_first(card.get("license_name")) or license_ if license_ == "other" else license_,
        languages=tuple(str(code) for code in _list(card.get("language"))),
        base_model=_first(card.get("base_model")),
    )


def _front_matter(folder: Path) -> dict[str, Any]:
    if not (folder / "README.md").is_file():
        return {}
    import yaml
    from gguf import Metadata

    try:
        return dict(Metadata.load_model_card(folder))
    except (yaml.YAMLError, UnicodeDecodeError):  # a careless README is no reason to refuse good weights
        return {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _first(value: Any) -> str:
    return str(next(iter(_list(value)), ""))
