"""Names of weights in the file: the canonical ones; projections that were joined carry all three of their letters."""

from __future__ import annotations

from collections.abc import Sequence

FUSED = "attention.wqkv.weight"
PARTS = ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight")
"""What the fused projection holds, in the order of its rows."""


def fused(canonical: Sequence[str]) -> str:
    """``layers.0.attention.wq.weight`` and its two companions -> ``layers.0.attention.wqkv.weight``."""
    return canonical[0].removesuffix(PARTS[0]) + FUSED


def parts(name: str) -> list[str]:
    """The canonical names behind a name in the file."""
    if not name.endswith(FUSED):
        return [name]
    return [name.removesuffix(FUSED) + part for part in PARTS]
