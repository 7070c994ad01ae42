"""Types for single matrices as a file: ``--plan`` reads it, an export under a budget writes it, ``verify`` reads it.

Format (JSON), documented in ``docs/quantization.md``::

    {"schema": 1, "target": "gguf", "quant": "int4",
     "types": {"layers.0.attention.wq.weight": "int4", ...},
     "made": {"budget": ..., "bytes": ..., "bits_per_weight": ..., "predicted_kl": ...}}

Matrices that ``types`` leaves out are stored as the row has them. ``made`` says how the file came about, for people.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.artifact import Staging, sha256_file
from exporter.errors import AllocationError

SCHEMA = 1
FOLDER = "plans"
_KEYS = ("schema", "target", "quant", "types")


@dataclass(frozen=True)
class Allocation:
    """Which matrix is stored as what.

    Attributes:
        target: Where the artifact runs.
        quant: The row that the types are exceptions to.
        types: Canonical name of a weight -> name of its type.
        made: How it came about, for people.
    """

    target: str
    quant: str
    types: Mapping[str, str]
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the file lies below the destination."""
        return f"{FOLDER}/{self.target}-{self.quant}.json"

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "target": self.target,
            "quant": self.quant,
            "types": dict(self.types),
            "made": dict(self.made),
        }

    def counts(self) -> dict[str, int]:
        """Type -> number of matrices."""
        return dict(sorted(Counter(self.types.values()).items()))


def load(path: Path) -> Allocation:
    """Read a file, made here or edited by hand; whether a model and a target have what it names is not looked at.

    Raises:
        AllocationError: If it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AllocationError(
            f"{path} cannot be read", expected="a plan, as an export with --target-size writes it", found=str(error)
        ) from None
    if not isinstance(document, dict) or any(key not in document for key in _KEYS) or document["schema"] != SCHEMA:
        raise AllocationError(
            f"{path} is no plan",
            expected=f"an object with {', '.join(_KEYS)}, schema {SCHEMA}",
            found=", ".join(document) if isinstance(document, dict) else type(document).__name__,
        )
    types = document["types"]
    if not isinstance(types, dict) or not all(isinstance(name, str) for name in types.values()):
        raise AllocationError(
            f"{path}: types must map names of weights to names of types", found=json.dumps(types)[:80]
        )
    return Allocation(str(document["target"]), str(document["quant"]), types, document.get("made", {}))


def stage(allocation: Allocation, staging: Staging) -> dict[str, Any]:
    """Put the file beside the artifacts; its entry among the manifest's shared files."""
    path = staging.path / allocation.path
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(allocation.to_dict(), indent=2) + "\n", encoding="utf-8")
    return {"target": FOLDER, "path": allocation.path, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def entry(allocation: Allocation) -> dict[str, Any]:
    """What the manifest says of an artifact's types."""
    return {"path": allocation.path, "matrices": allocation.counts(), **allocation.made}
