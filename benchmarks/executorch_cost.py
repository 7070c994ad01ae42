"""``python -m benchmarks.executorch cost``: what an export to ExecuTorch costs, next to executorch's own exporter.

Every command runs in a fresh process and is measured by ``benchmarks/measure.py``; no file is checked in the runtime,
neither ours nor the peer's. The first export of all is repeated and only the second is counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import CACHE, executorch_peer, table
from benchmarks.exports import export
from benchmarks.measure import Usage
from benchmarks.ratios import ratios
from benchmarks.rescaled import demo_checkpoint
from benchmarks.shapes import make_checkpoint
from scripts.fetch_models import fetch

OURS = ("int4", "int4-e4g32", "int8", "int8w", "f32")
LIKE_THE_PEER = "int4-e4g32"
"""The row with the peer's encodings: 4 bits in groups of 32 everywhere."""


def checkpoint(shape: str) -> Path:
    """Random weights of a shape, or the demo model, as a Hugging Face folder."""
    if shape == "demo":
        return demo_checkpoint(0.0)
    return make_checkpoint(CACHE / f"llama-{shape}", shape, fetch("llama3-tokenizer").parent)


def _rows(shape: str, quants: Sequence[str], *, peer: bool) -> None:
    model, name = checkpoint(shape), "SmolLM2-135M" if shape == "demo" else f"Llama's {shape.upper()} shape"
    ours: dict[str, tuple[Usage, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for quant in quants:
            usage = export(model, "executorch", quant, Path(folder, "ours"))
            (file,) = Path(folder, "ours").rglob("*.pte")
            ours[quant] = usage, file.stat().st_size
            _row(name, f"exporter {quant}", ours[quant], "")
        if peer:
            usage, file = executorch_peer.build(model)
            found = usage, file.stat().st_size
            _row(name, executorch_peer.NAME, found, ratios(found, ours[LIKE_THE_PEER]))


def _row(name: str, file: str, found: tuple[Usage, int], compared: str) -> None:
    usage, nbytes = found
    table.row(name, file, *usage.cells(), f"{nbytes / 1e6:.1f}", compared)


def run(shapes: Sequence[str], *, with_peer: bool) -> None:
    """Print the table; of shapes for which the peer has no memory, always without it."""
    table.head("model", "file", *Usage.COLUMNS, "file MB", "peer / ours: CPU, wall, memory, file")
    with tempfile.TemporaryDirectory() as folder:
        export(checkpoint("demo"), "executorch", "int4", Path(folder, "warm"))
    for shape in shapes:
        small = shape in ("demo", "1b")
        _rows(shape, OURS if small else ("int4", "int4-e4g32"), peer=small and with_peer)
