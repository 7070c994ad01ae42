"""``python -m benchmarks.executorch activations``: what it is worth to keep activations float32, and what it costs.

The programs of ``int8`` and ``int4`` with another choice of matrices whose input XNNPACK rounds to 8 bits, in the real
runtime. The 1B's shape has random weights: only its times mean something.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import onnx_ir as ir

from benchmarks import table
from benchmarks.executorch_cost import checkpoint
from benchmarks.executorch_rounding import kl, written
from benchmarks.executorch_turns import take_turns
from exporter import parity
from exporter.ir import interpreter
from exporter.source import SourceOptions, open_source
from exporter.targets.executorch import plan
from exporter.targets.executorch.engine import Ordered
from exporter.targets.executorch.target import EXECUTORCH
from exporter.targets.executorch.walk import Lowering
from exporter.targets.executorch.xnnpack import Xnnpack
from tests.oracles import xnnpack


def everything(_: str) -> bool:
    return True


CHOICES: dict[str, xnnpack.Rounds] = {
    "all": everything,
    "all but the head": xnnpack.layers,
    "all but head and w2": lambda name: xnnpack.layers(name) and ".w2." not in name,
    "none": lambda name: False,
}
"""What is rounded."""
ROWS = {
    "demo": (
        ("int8w", "all"),
        ("int8w", "all but the head"),
        ("int8w", "all but head and w2"),
        ("int8w", "none"),
        ("int4", "all"),
        ("int4", "all but the head"),
    ),
    "1b": (("int4", "all"), ("int4", "all but the head")),
}
"""Shape -> the row whose program is changed, and a choice. Inputs of 4-bit weights are rounded always."""


@dataclass(frozen=True)
class _Choosing(Xnnpack):
    """XNNPACK with a choice of its own.

    Attributes:
        choice: The matrices whose input is rounded; that of 4-bit ones always is.
    """

    choice: xnnpack.Rounds = everything

    def product(self, low: Lowering, weight: ir.Value, x: int, ordered: Ordered, *, head: bool) -> int:
        return Xnnpack(self.choice(str(weight.name))).product(low, weight, x, ordered, head=False)


def _rows(shape: str, threads: int) -> None:
    source = open_source(str(checkpoint(shape)), SourceOptions())
    ids = parity.probe_tokens(source.tokenizer, source.config)
    with tempfile.TemporaryDirectory() as scratch:
        programs = {}
        for quant, choice in ROWS[shape]:
            engine = _Choosing(choice=CHOICES[choice])
            with mock.patch.dict(plan.ENGINES, {"xnnpack": lambda _, engine=engine: engine}):  # type: ignore[dict-item]
                programs[quant, choice] = written(source, quant, Path(scratch, quant, choice))
        names = {f"{quant}, {choice}": path for (quant, choice), path in programs.items()}
        found = dict(zip(programs, take_turns(names, ids, threads).values(), strict=True))
        for (quant, choice), path in programs.items():
            times = found[quant, choice]
            agreement = "-"
            if shape == "demo":
                model = parity.on_weights(source.graph(), EXECUTORCH.read_back([path]).weights)
                agreement = kl(interpreter.logits(model, ids), EXECUTORCH.load([path]).logits(ids), ids)
            table.row(
                shape, quant.removesuffix("w"), choice, agreement, f"{times.prefill:.0f}", f"{times.decode:.1f}",
                f"{times.prefill_cpu:.2f}", f"{times.decode_cpu:.2f}",
            )  # fmt: skip


def run(threads: int) -> None:
    """Print the table."""
    print(f"threads: {threads}\n")
    table.head(
        "model", "weights", "rounded inputs", "KL to the reference", "prefill tokens/s", "decode tokens/s",
        "prefill, CPU ms a token", "decode, CPU ms a token",
    )  # fmt: skip
    for shape in ROWS:
        _rows(shape, threads)
