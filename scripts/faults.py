"""Faults that the checks of the sample apps must find: wrong test vectors, and code with something else in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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


Changes = Mapping[str, tuple[tuple[str, str], ...]]
"""File -> what it says, and what is written instead."""


def rewrite(folder: Path, changes: Changes) -> None:
    """Change files that lie anywhere below a folder."""
    for name, pairs in changes.items():
        (path,) = folder.rglob(name)
        text = path.read_text(encoding="utf-8")
        for right, wrong in pairs:
            assert right in text, f"{name} has no {right}"
            text = text.replace(right, wrong)
        path.write_text(text, encoding="utf-8")


def last_words(changes: Changes) -> set[str]:
    """The names in what is written instead that a compiler should not know."""
    return {re.findall(r"\w+", wrong)[-1] for pairs in changes.values() for _, wrong in pairs}


def change_vectors(folder: Path) -> int:
    """Write the vectors into a new folder, one case of each kind changed.

    Returns:
        How many kinds of cases there are, and so how many tests must fail.
    """
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
