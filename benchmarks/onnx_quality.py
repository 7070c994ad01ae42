"""``python -m benchmarks.onnx quality``: what the bits of an ONNX file cost, ours and the peers' in ONNX Runtime.

The reference, the passages and the columns are those of ``benchmarks/quality.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import table
from benchmarks.exports import export
from benchmarks.judging import COLUMNS, Judge
from benchmarks.onnx_peers import GENAI_INT4, RECIPE, model_bytes
from benchmarks.onnx_session import Session
from benchmarks.rescaled import demo_checkpoint, label
from exporter.source import SourceOptions, open_source

QUANTS = ("int4", "q4f16", "int8", "q8", "f16")
PEERS = (GENAI_INT4, RECIPE["q4"], RECIPE["q4f16"], RECIPE["q8"], RECIPE["uint8"])
SIGMAS = (0.0, 0.5)


def _folders(model: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of every file to judge; ours are gone when the next one is asked for."""
    for quant in QUANTS:
        with tempfile.TemporaryDirectory() as folder:
            export(model, "onnx", quant, Path(folder) / "out")
            yield f"exporter {quant}", Path(folder)
    for peer in PEERS:
        yield peer.name, peer.kept(model)


def run(text: Path) -> None:
    """Print the table."""
    table.head("model", "file", "MB", *COLUMNS)
    for sigma in SIGMAS:
        model = demo_checkpoint(sigma)
        source = open_source(str(model), SourceOptions())
        judge = Judge.of(source, text.read_text(encoding="utf-8"))
        for name, folder in _folders(model):
            session = Session(next(folder.rglob("*.onnx")), source.config)
            table.row(label(sigma), name, f"{model_bytes(folder) / 1e6:.1f}", *judge.cells(session.logits))
