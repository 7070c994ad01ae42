"""``python -m benchmarks.executorch rounding``: what XNNPACK's 8-bit activations do, and why no gate can be tighter.

XNNPACK rounds the input of every quantized matrix to 8 bits, one scale and zero point a token. The columns, all mean
KL in nats on the probe text:

* the runtime against the float32 reference on the same weights, which is what the gate sees;
* the runtime against a reference that rounds as XNNPACK does (``xnn_f32_qd8_asymmetric_quantization_params``);
* that reference against itself with inputs of its matrices changed by one part in ten million: what is left of any
  agreement when nothing differs but the order of summation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import table
from exporter import parity
from exporter.ir import interpreter
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch.target import EXECUTORCH
from scripts.fetch_models import fetch
from tests.fixtures.models import TinySpec, write_huggingface

QUANTS = ("int8", "int4")
PARTS = ("head", "w2", "wo", "w1 and w3", "wq, wk and wv")
"""What is left out of the rounding, one at a time."""
_MATRICES = {"w1 and w3": ("w1", "w3"), "wq, wk and wv": ("wq", "wk", "wv")}

Rounding = Callable[[torch.Tensor], torch.Tensor]


def qd8(x: torch.Tensor) -> torch.Tensor:
    """Rows as XNNPACK rounds them, decoded: 8 bits, asymmetric, 0 exact."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    from_low, from_high = low / scale, high / scale
    nearer_low = (-128 + from_low) + (127 + from_high) > 0
    zero = torch.where(nearer_low, -128 - from_low, 127 - from_high).clamp(-128, 127).round()
    return ((x / scale).round() + zero).clamp(-128, 127).sub(zero) * scale


def _logits(model: object, ids: list[int], rounding: Rounding, skipped: tuple[str, ...] = ()) -> parity.Logits:
    plain = interpreter.IMPLEMENTATIONS["Linear"]

    def linear(node: object, x: torch.Tensor, weight: object) -> torch.Tensor:
        name = str(weight.name).split(".")[-2]  # type: ignore[attr-defined]
        return plain(node, x if name in skipped else rounding(x), weight)  # type: ignore[no-any-return]

    interpreter.IMPLEMENTATIONS["Linear"] = linear
    try:
        return interpreter.logits(model, ids)  # type: ignore[arg-type]
    finally:
        interpreter.IMPLEMENTATIONS["Linear"] = plain


def _nudged(x: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return qd8(x * (1 + 1e-7 * noise))


def _rows(name: str, source: Source, folder: Path) -> None:
    ids = parity.probe_tokens(source.tokenizer, source.config)
    for quant in QUANTS:
        subject = source.subject()
        plan = EXECUTORCH.plan(subject, quant, Options())
        (file,) = plan.write(folder, lambda *_: None)
        for path, content in EXECUTORCH.shared_files(subject, {quant: plan.files}).items():
            (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
        runtime = EXECUTORCH.load([folder / file.path]).logits(ids)
        model = parity.on_weights(source.graph(), EXECUTORCH.read_back([folder / file.path]).weights)

        def kl(reference: parity.Logits, candidate: parity.Logits) -> str:
            return f"{parity.compare(reference, candidate, ids).mean_kl:.1e}"

        exact, rounded = interpreter.logits(model, ids), _logits(model, ids, qd8)
        cells = [kl(exact, runtime), kl(rounded, runtime), kl(rounded, _logits(model, ids, _nudged))]
        for part in PARTS:
            names = {"head": ("output", "tok_embeddings")}.get(part, _MATRICES.get(part, (part,)))
            cells.append(kl(exact, _logits(model, ids, qd8, names)))
        table.row(name, quant, *cells)
        (folder / file.path).unlink()


def run() -> None:
    """Print the table."""
    table.head(
        "model", "quant", "to the reference", "to one that rounds", "that one, nudged", *(f"without {p}" for p in PARTS)
    )
    with tempfile.TemporaryDirectory() as name:
        for n_layers in (1, 2, 4, 8):
            spec = TinySpec(dim=256, ffn_dim=512, head_dim=64, n_layers=n_layers, dtype="float32")
            tiny = write_huggingface(Path(name, f"tiny-{n_layers}"), spec)
            _rows(f"tiny, layers: {n_layers}", open_source(str(tiny), SourceOptions()), Path(name))
        _rows("demo model, layers: 30", open_source(str(fetch("smollm2")), SourceOptions()), Path(name))
