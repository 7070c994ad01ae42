"""``python -m benchmarks.executorch speed``: tokens a second of our programs and the peer's in the same runtime.

Medians over turns (``benchmarks/executorch_turns.py``). CPU milliseconds are those of all threads; on one thread they
can be compared on a busy machine as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import executorch_peer, table
from benchmarks.executorch_cost import checkpoint
from benchmarks.executorch_turns import take_turns
from benchmarks.exports import export
from exporter import parity
from exporter.source import SourceOptions, open_source

SHAPES = {"demo": "SmolLM2-135M", "1b": "Llama-3.2-1B's shape"}
OURS = ("int4-e4g32", "int4", "int8", "int8w")


def _rows(name: str, shape: str, quants: Sequence[str], threads: int) -> None:
    model = checkpoint(shape)
    source = open_source(str(model), SourceOptions())
    prompt = parity.probe_tokens(source.tokenizer, source.config)
    with tempfile.TemporaryDirectory() as scratch:
        programs = {executorch_peer.NAME: executorch_peer.kept(model)}
        for quant in quants:
            export(model, "executorch", quant, Path(scratch, quant))
            (programs[f"exporter {quant}"],) = Path(scratch, quant).rglob("*.pte")
        found = take_turns(programs, prompt, threads)
    peer = found[executorch_peer.NAME]
    for file, times in found.items():
        table.row(
            name, file, f"{times.prefill:.0f}", f"{times.decode:.1f}",
            f"{times.prefill_cpu:.2f}", f"{times.decode_cpu:.2f}",
            f"{times.prefill / peer.prefill:.2f} / {times.decode / peer.decode:.2f}",
        )  # fmt: skip


def run(shapes: Sequence[str], threads: int) -> None:
    """Print the table."""
    print(f"threads: {threads}\n")
    table.head(
        "model", "file", "prefill tokens/s", "decode tokens/s",
        "prefill, CPU ms a token", "decode, CPU ms a token", "this / peer, tokens/s: prefill, decode",
    )  # fmt: skip
    for shape in shapes:
        _rows(SHAPES[shape], shape, OURS, threads)
