"""``python -m benchmarks.executorch activations``: what it is worth to keep activations float32, and what it costs.

The programs of ``int8`` and ``int4`` with another choice of matrices whose input XNNPACK rounds to 8 bits, in the real
runtime. The 1B's shape has random weights: only its times mean something.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import table
from benchmarks.executorch_cost import checkpoint
from benchmarks.executorch_rounding import HEAD, Rounds, kl, layers_alone, written
from benchmarks.executorch_turns import take_turns
from exporter import parity
from exporter.ir import interpreter
from exporter.source import SourceOptions, open_source
from exporter.targets.executorch import lower
from exporter.targets.executorch.subgraph import Subgraph
from exporter.targets.executorch.target import EXECUTORCH

CHOICES: dict[str, Rounds] = {
    "all": lambda name: True,
    "all but the head": layers_alone,
    "all but head and w2": lambda name: re.search(rf"{HEAD}|\.w2\.", name) is None,
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


@contextmanager
def _rounding(rounds: Rounds) -> Iterator[None]:
    """Programs are lowered with this choice."""
    lower_linear, multiply = lower.RULES["Linear"], Subgraph.linear

    def rule(low: Any, node: Any) -> None:
        def linear(graph: Subgraph, x: int, matrix: int) -> int:
            # ``int4`` has rounded the inputs of its layers already; of float32, XNNPACK rounds what is asked.
            return multiply(graph, graph.rounded(x) if asked and x not in graph._quantized.values() else x, matrix)

        asked = rounds(str(node.inputs[1].name))
        with mock.patch.object(Subgraph, "linear", linear):
            lower_linear(low, node)

    with mock.patch.dict(lower.RULES, {"Linear": rule}):
        yield


def _rows(shape: str, threads: int) -> None:
    source = open_source(str(checkpoint(shape)), SourceOptions())
    ids = parity.probe_tokens(source.tokenizer, source.config)
    with tempfile.TemporaryDirectory() as scratch:
        programs = {}
        for quant, choice in ROWS[shape]:
            with _rounding(CHOICES[choice]):
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
