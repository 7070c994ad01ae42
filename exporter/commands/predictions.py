"""What ``export --dry-run`` prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exporter.console import emit_json, memory_text, print_table, size_text

if TYPE_CHECKING:
    from exporter.pipeline import Prediction


def print_predictions(predictions: Sequence[Prediction], output: str) -> None:
    """One document, or a table of files and, under a budget or with a plan, one of types."""
    if output == "json":
        emit_json({"artifacts": [_entry(prediction) for prediction in predictions]})
        return
    rows = [
        (
            file.path,
            size_text(file.nbytes),
            f"{'' if file.exact else 'about '}{file.nbytes}",
            f"{p.bits_per_weight:.2f}",
            memory_text(p.peak_bytes),
        )
        for p in predictions
        for file in p.files
    ]
    print_table(("file (not written)", "size", "bytes", "bits/weight", "peak memory"), rows)
    for p in predictions:
        if p.allocation is not None:
            print_table((f"{p.target} {p.quant}", "stored as"), _kinds(p.allocation.types), text_columns=2)


def _entry(p: Prediction) -> dict[str, object]:
    return {
        "target": p.target,
        "quant": p.quant,
        "files": [{"path": f.path, "bytes": f.nbytes, "exact": f.exact} for f in p.files],
        "bits_per_weight": round(p.bits_per_weight, 4),
        "peak_memory_bytes": p.peak_bytes,
        **({} if p.allocation is None else {"plan": p.allocation.to_dict()}),
    }


def _kinds(types: Mapping[str, str]) -> list[tuple[str, str]]:
    """For each matrix of a layer and each other one, its types and in how many layers it has them."""
    found: dict[str, Counter[str]] = {}
    for name, kind in types.items():
        matrix = re.sub(r"layers\.\d+\.", "", name.removesuffix(".weight"))
        found.setdefault(matrix, Counter())[kind] += 1
    return [(name, ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))) for name, counts in found.items()]
