"""``report.json``: of each artifact in the folder, its tensors and the positions at which its logits were compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.divergence import Positions
from exporter.parity import Measured, WeightError
from exporter.targets.base import StoredTensor

SCHEMA = 1
FILE = "report.json"

Entry = dict[str, Any]


def entry(artifact: Mapping[str, Any], tensors: Sequence[StoredTensor], measured: Measured | None) -> Entry:
    """One artifact's entry.

    Args:
        artifact: Its entry of the manifest.
        tensors: What its plan stored.
        measured: What the parity check saw, if it came to its end.
    """
    errors: Mapping[str, WeightError] = {} if measured is None else measured.weights
    found: Entry = {
        "target": artifact["target"],
        "quant": artifact["quant"],
        "sha256": _hashes(artifact),
        "tensors": [
            {
                "name": tensor.name,
                "type": tensor.type,
                "shape": list(tensor.shape),
                "bytes": tensor.nbytes,
                **(_error(errors[tensor.name]) if tensor.name in errors else {}),
            }
            for tensor in tensors
        ],
    }
    if measured is not None:
        found["positions"] = {
            "faithfulness": _positions(measured.faithfulness),
            "quality": _positions(measured.quality),
        }
    return found


def _error(error: WeightError) -> dict[str, float | int | None]:
    return {
        "norm": _number(error.norm),
        "error": _number(error.error),
        "largest": _number(error.largest),
        "row": error.row,
    }


def _positions(positions: Positions) -> dict[str, list[float | None]]:
    return {"kl": [*map(_number, positions.kl)], "max_abs": [*map(_number, positions.max_abs)]}


def _number(value: float) -> float | None:
    """Five digits are more than any picture shows."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def load(folder: Path) -> list[Entry]:
    """The entries of an earlier run; none where its file is gone or of another schema, because no proof rests on it."""
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return list(document["artifacts"]) if isinstance(document, dict) and document.get("schema") == SCHEMA else []


def of(artifact: Mapping[str, Any], entries: Sequence[Entry]) -> Entry | None:
    """The entry that is about an artifact of the manifest, known by its files' hashes."""
    return next((found for found in entries if found["sha256"] == _hashes(artifact)), None)


def dumps(entries: Sequence[Entry]) -> str:
    """The document: one line for each tensor and list of numbers would be long, so one for each artifact."""
    lines = ",\n".join(json.dumps(found, ensure_ascii=False, allow_nan=False) for found in entries)
    return f'{{"schema": {SCHEMA}, "artifacts": [\n{lines}\n]}}\n'


def _hashes(artifact: Mapping[str, Any]) -> list[str]:
    return [file["sha256"] for file in artifact["files"]]
