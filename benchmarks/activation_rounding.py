"""Why quantized files are gated loosely: rounded activations, and how their differences grow from layer to layer.

    python -m benchmarks.activation_rounding

llama.cpp rounds the input of every matrix product to a companion type of the weights (``vec_dot_type`` in ggml's
``ggml-cpu.c``). A reference that rounds the same way explains a shallow model almost completely. In a deep one, inputs
that land on the other side of a rounding step multiply, and nothing is left of the agreement.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from exporter import parity
from exporter.divergence import compare
from exporter.ir import interpreter
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.runtime import LlamaCpp
from exporter.targets.gguf.target import GGUF
from scripts.fetch_models import fetch
from tests.fixtures.models import TinySpec, write_huggingface

QUANTS = ("f16", "bf16", "q8_0", "q4_0")


def _q8_0(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 32, scale max / 127 kept in float16, ties away from zero (``quantize_row_q8_0_ref``)."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    levels = blocks * torch.where(scale > 0, 1 / scale, 0)
    levels = levels.sign() * (levels.abs() + 0.5).floor()
    return (levels * scale.half().float()).reshape(x.shape)


ROUND: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "f16": lambda x: x.half().float(),
    "bf16": lambda x: x.bfloat16().float(),
    "q8_0": _q8_0,
    "q4_0": _q8_0,
}


def _rounded(model: Any, token_ids: list[int], round_input: Callable[[torch.Tensor], torch.Tensor]) -> parity.Logits:
    plain = interpreter.IMPLEMENTATIONS["Linear"]
    interpreter.IMPLEMENTATIONS["Linear"] = lambda node, x, weight: plain(node, round_input(x), weight)
    try:
        return interpreter.logits(model, token_ids)
    finally:
        interpreter.IMPLEMENTATIONS["Linear"] = plain


def _rows(name: str, source: Source, folder: Path) -> None:
    token_ids = parity.probe_tokens(source.tokenizer, source.config)
    for quant in QUANTS:
        (file,) = GGUF.plan(source.subject(), quant, Options()).write(folder, lambda *_: None)
        path = folder / file.path
        candidate = LlamaCpp(path).logits(token_ids)
        model = parity.on_weights(source.graph(), GGUF.read_back([path]).weights)
        plain = compare(interpreter.logits(model, token_ids), candidate, token_ids)
        rounded = compare(_rounded(model, token_ids, ROUND[quant]), candidate, token_ids)
        print(f"| {name} | {quant} | {plain.mean_kl:.1e} | {rounded.mean_kl:.1e} |", flush=True)
        path.unlink()


def main() -> None:
    print("| model | quant | KL to the reference | KL to the reference with rounded activations |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_layers in (1, 4):
            spec = TinySpec(dim=256, ffn_dim=512, head_dim=64, n_layers=n_layers, dtype="float32")
            tiny = write_huggingface(folder / f"tiny-{n_layers}", spec)
            _rows(f"tiny, layers: {n_layers}", open_source(str(tiny), SourceOptions()), folder)
        _rows("demo model, layers: 30", open_source(str(fetch("smollm2")), SourceOptions()), folder)


if __name__ == "__main__":
    main()
