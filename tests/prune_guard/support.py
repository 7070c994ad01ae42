"""What these tests share: a list of kept tokens, and folders of pruned models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporter.prune_guard.folder import save
from exporter.source import Source

KEPT = (3, 4, 5, 100, 328, 575)

MEMORY: dict[str, Any] = {
    "exporter": "0",
    "source": {"model": "tiny"},
    "recipe": "test",
    "importance": "magnitude",
    "quants": {"gguf": "q8_0", "onnx": "int8"},
    "report": [{"step": "source", "parameters": 1000, "perplexity": 12.5}],
}


def saved(out: Path, source: Source, model: ir.Model) -> Path:
    """The folder that a pruned model is saved to."""
    save(out, model, source.tokenizer, source.checkpoint.info, MEMORY, lambda n, what: None, {})
    return out
