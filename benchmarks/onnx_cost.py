"""``python -m benchmarks.onnx cost``: what an export to ONNX costs, next to the peers' in the same run.

Every command runs in a fresh process and is measured by ``benchmarks/measure.py``. No file is checked in a runtime,
neither ours nor the peers'. The first export of all is repeated and only the second is counted, as in
``benchmarks/run.py``. A recipe's row includes Optimum's export, which it starts from.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import CACHE, table
from benchmarks.exports import export
from benchmarks.measure import Usage
from benchmarks.onnx_peers import GENAI_INT4, OPTIMUM, RECIPE, Peer, model_bytes
from benchmarks.ratios import ratios
from benchmarks.rescaled import demo_checkpoint
from benchmarks.shapes import make_checkpoint
from scripts.fetch_models import fetch

OURS = ("int4", "q4f16", "int8", "q8", "f16")
Against = Sequence[tuple[Peer, str]]
"""A peer and the quantization of ours that it is divided by."""
_SMALL: Against = (
    (GENAI_INT4, "int4"),
    (OPTIMUM, "f32"),
    (RECIPE["q4"], "int4"),
    (RECIPE["q4f16"], "q4f16"),
    (RECIPE["q8"], "q8"),
    (RECIPE["fp16"], "f16"),
)


def _rows(name: str, model: Path, quants: Sequence[str], peers: Against, scratch: Path) -> None:
    ours: dict[str, tuple[Usage, int]] = {}
    theirs: dict[Peer, Usage] = {}
    for quant in quants:
        usage = export(model, "onnx", quant, scratch / "ours")
        ours[quant] = usage, model_bytes(scratch / "ours")
        _row(name, f"exporter {quant}", ours[quant], "")
    for peer, quant in peers:
        usage = peer.build(model, scratch / "peer")
        theirs[peer] = theirs[peer.base].then(usage) if peer.base is not None else usage
        found = theirs[peer], model_bytes(scratch / "peer")
        _row(name, peer.name, found, ratios(found, ours[quant]))
        shutil.rmtree(scratch / "peer")


def _row(name: str, file: str, found: tuple[Usage, int], ratios: str) -> None:
    usage, nbytes = found
    table.row(name, file, *usage.cells(), f"{nbytes / 1e6:.0f}", ratios)


def run() -> None:
    """Print the table."""
    large = make_checkpoint(CACHE / "llama-1b", "1b", fetch("llama3-tokenizer").parent)
    small = demo_checkpoint(0.0)
    OPTIMUM.kept(small)  # what the recipe starts from
    table.head("model", "file", *Usage.COLUMNS, "file MB", "peer / ours: CPU, wall, memory, file")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        export(large, "onnx", OURS[0], scratch / "ours")
        _rows("Llama-3.2-1B's shape", large, OURS, ((GENAI_INT4, "int4"),), scratch)
        _rows("SmolLM2-135M", small, (*OURS, "f32"), _SMALL, scratch)
