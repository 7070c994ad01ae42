"""``python -m benchmarks.executorch quality``: what the bits of a program cost, ours and the peer's in ExecuTorch.

The reference, the passages and the columns are those of ``benchmarks/quality.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import executorch_peer, table
from benchmarks.exports import export
from benchmarks.judging import COLUMNS, Judge
from benchmarks.rescaled import demo_checkpoint, label
from exporter import parity
from exporter.source import SourceOptions, open_source
from exporter.targets.executorch.runtime import ExecuTorch

OURS = ("int4", "int4-e4g32", "int4-g128", "int8", "int8w")
SIGMAS = (0.0, 0.5)


def _logits(path: Path, ids: list[int]) -> parity.Logits:
    # A program gives the last token's logits: one by one there is nothing to be computed twice.
    return ExecuTorch(path).logits(ids, prefill=1)


def run(text: Path) -> None:
    """Print the table."""
    table.head("model", "file", "MB", *COLUMNS)
    for sigma in SIGMAS:
        model = demo_checkpoint(sigma)
        judge = Judge.of(open_source(str(model), SourceOptions()), text.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            files = {executorch_peer.NAME: executorch_peer.kept(model)}
            for quant in OURS:
                export(model, "executorch", quant, Path(folder, quant))
                (files[f"exporter {quant}"],) = Path(folder, quant).rglob("*.pte")
            for name, path in files.items():
                cells = judge.cells(lambda ids, path=path: _logits(path, ids))  # type: ignore[misc]
                table.row(label(sigma), name, f"{path.stat().st_size / 1e6:.1f}", *cells)
