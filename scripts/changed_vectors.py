"""Test vectors of which one case of each kind is wrong, so that a test which cannot fail is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parents[1] / "tests" / "vectors"

CHANGED = {
    "budgets": {"plans": "dropped", "tokens_at_most": "tokens"},
    "bundles": {"documents": "message", "archives": "message", "runtimes": "message", "golden": "message"},
    "guard": {"prompts": "prompt", "verdicts": "categories"},
    "prompts": {"prompts": "prompt", "dates": "text"},
}
"""Vectors -> kind of case -> what is changed in one of them."""


def write(folder: Path) -> int:
    """Write the vectors into a new folder; how many kinds of cases there are, and so how many tests must fail."""
    folder.mkdir()
    kinds = 0
    for name, fields in CHANGED.items():
        vectors = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
        for kind, field in fields.items():
            case = vectors[kind][0]
            case[field] = _other(case[field])
            kinds += 1
        (folder / f"{name}.json").write_text(json.dumps(vectors), encoding="utf-8")
    return kinds


def _other(value: Any) -> Any:
    """Another value of the same type, or a text for ``None``."""
    if isinstance(value, int):
        return value + 1
    return [*value, {"code": "S1", "name": "?"}] if isinstance(value, list) else f"{value}?"
