"""``python -m benchmarks.executorch rounding``: what XNNPACK's 8-bit activations do, and why no gate can be tighter.

XNNPACK rounds the input of a quantized matrix to 8 bits, one scale and zero point a token; the head, where it has 8-bit
rows, is given float32. All numbers are mean KL in nats on the probe text. First, for models of 1 to 30 layers:

* the runtime against the float32 reference on the same weights, which is what the gate sees;
* the runtime against a reference that rounds as XNNPACK does (``tests/oracles/xnnpack.py``);
* that reference against the float32 one: what rounding costs, without any runtime;
* that reference against itself with inputs of its matrices changed by one part in ten million: what is left of any
  agreement when nothing differs but the order of summation.

Then, in the reference alone: the rounding of one kind of matrix, or of some layers; and all but that.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import table
from exporter import parity
from exporter.divergence import compare
from exporter.ir import interpreter
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch.target import EXECUTORCH
from scripts.fetch_models import fetch
from tests.fixtures.models import TinySpec, write_huggingface
from tests.oracles import xnnpack

QUANTS = ("int8w", "int8", "int4")
PARTS = {
    "wq, wk and wv": r"\.w[qkv]\.",
    "wo": r"\.wo\.",
    "w1 and w3": r"\.w[13]\.",
    "w2": r"\.w2\.",
    "head": r"tok_embeddings|output",
    "layers 0 to 2": r"layers\.[0-2]\.",
    "layers 3 to 26": r"layers\.([3-9]|1\d|2[0-6])\.",
    "layers 27 to 29": r"layers\.2[7-9]\.",
}
"""What the rounding's cost is divided into: name -> pattern of the matrices' names."""
NUDGE = 1e-7


def written(source: Source, quant: str, folder: Path) -> Path:
    """A program and the files beside it."""
    subject = source.subject()
    plan = EXECUTORCH.plan(subject, quant, Options())
    (file,) = plan.write(folder, lambda *_: None)
    for path, content in EXECUTORCH.shared_files(subject, {quant: plan.files}).items():
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / file.path


def kl(reference: parity.Logits, candidate: parity.Logits, ids: list[int]) -> str:
    """As a cell of a table."""
    return f"{compare(reference, candidate, ids).mean_kl:.1e}"


def _rounding_logits(model: Any, ids: list[int], rounds: xnnpack.Rounds, nudge: float = 0.0) -> parity.Logits:
    with xnnpack.rounding(rounds, nudge):
        return interpreter.logits(model, ids)


def _agreement(name: str, source: Source, folder: Path) -> None:
    ids = parity.probe_tokens(source.tokenizer, source.config)
    for quant in QUANTS:
        path = written(source, quant, folder)
        runtime = EXECUTORCH.load([path]).logits(ids)
        model = parity.on_weights(source.graph(), EXECUTORCH.read_back([path]).weights)
        exact = interpreter.logits(model, ids)
        cells = [kl(exact, runtime, ids)]
        if EXECUTORCH.quant(quant).rounds:
            rounding = _rounding_logits(model, ids, xnnpack.layers)
            nudged = _rounding_logits(model, ids, xnnpack.layers, NUDGE)
            cells += [kl(rounding, runtime, ids), kl(exact, rounding, ids), kl(rounding, nudged, ids)]
        else:
            cells += ["-"] * 3
        table.row(name, quant, *cells)
        path.unlink()


def _parts(source: Source, folder: Path) -> None:
    ids = parity.probe_tokens(source.tokenizer, source.config)
    model = parity.on_weights(source.graph(), EXECUTORCH.read_back([written(source, "int8", folder)]).weights)
    exact = interpreter.logits(model, ids)
    table.row("everywhere", kl(exact, _rounding_logits(model, ids, lambda _: True), ids), "")
    for part, pattern in PARTS.items():

        def inside(name: str, pattern: str = pattern) -> bool:
            return re.search(pattern, name) is not None

        alone = _rounding_logits(model, ids, inside)
        others = _rounding_logits(model, ids, lambda name, inside=inside: not inside(name))  # type: ignore[misc]
        table.row(part, kl(exact, alone, ids), kl(exact, others, ids))


def run() -> None:
    """Print the tables."""
    demo = open_source(str(fetch("smollm2")), SourceOptions())
    table.head(
        "model", "quant", "runtime to the reference", "runtime to one that rounds",
        "that one to the reference", "that one to itself, nudged",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for n_layers in (1, 2, 4, 8):
            spec = TinySpec(dim=256, ffn_dim=512, head_dim=64, n_layers=n_layers, dtype="float32")
            tiny = write_huggingface(Path(name, f"tiny-{n_layers}"), spec)
            _agreement(f"tiny, layers: {n_layers}", open_source(str(tiny), SourceOptions()), Path(name))
        _agreement("demo model, layers: 30", demo, Path(name))
        print()
        table.head("int8, demo model: rounded", "this alone", "all but this")
        _parts(demo, Path(name))
