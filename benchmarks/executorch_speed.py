"""``python -m benchmarks.executorch speed``: tokens a second of our programs and the peer's in the same runtime.

A prompt of 64 tokens in one batch, then 64 greedy steps, three times; the programs of a model take turns of eight
steps, so that a busy moment of the machine meets them all. Medians, as in ``benchmarks/onnx_speed.py``. All programs
are loaded in one process and share executorch's thread pool.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import executorch_peer, table
from benchmarks.executorch_cost import checkpoint
from benchmarks.exports import export
from exporter import parity
from exporter.source import SourceOptions, open_source
from exporter.targets.executorch import worker

PROMPT, TURNS, STEPS_PER_TURN, ROUNDS = 64, 8, 8, 3
OURS = ("int4-e4g32", "int4", "int8")


@dataclass
class _Contender:
    """A loaded program and its times in seconds: of each prompt and of each step."""

    name: str
    program: Any
    prompts: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    _position: int = 0
    _next: list[int] = field(default_factory=list)

    def begin(self, prompt: list[int]) -> None:
        self._position, self._next = 0, prompt
        self.prompts.append(self._step())

    def take_turn(self) -> None:
        self.steps += [self._step() for _ in range(STEPS_PER_TURN)]

    def _step(self) -> float:
        begin = time.perf_counter()
        scores = worker.forward(self.program, self._next, self._position)
        self._position += len(self._next)
        self._next = [int(scores.argmax())]
        return time.perf_counter() - begin


def _rows(name: str, shape: str, quants: Sequence[str]) -> None:
    model = checkpoint(shape)
    source = open_source(str(model), SourceOptions())
    prompt = parity.probe_tokens(source.tokenizer, source.config)[:PROMPT]
    with tempfile.TemporaryDirectory() as scratch:
        files = {executorch_peer.NAME: executorch_peer.kept(model)}
        for quant in quants:
            export(model, "executorch", quant, Path(scratch, quant))
            (files[f"exporter {quant}"],) = Path(scratch, quant).rglob("*.pte")
        contenders = [_Contender(file, worker.open_program(str(path))) for file, path in files.items()]
        for _ in range(ROUNDS):
            for contender in contenders:
                contender.begin(prompt)
            for contender in contenders * TURNS:
                contender.take_turn()
    peer = contenders[0]
    for contender in contenders:
        prefill, decode = (PROMPT / statistics.median(contender.prompts), 1 / statistics.median(contender.steps))
        ratio = statistics.median(peer.steps) * decode
        table.row(name, contender.name, f"{prefill:.0f}", f"{decode:.1f}", f"{ratio:.2f}")


def run() -> None:
    """Print the table."""
    table.head("model", "file", "prefill tokens/s", "decode tokens/s", "decode, this / peer")
    _rows("SmolLM2-135M", "demo", OURS)
    _rows("Llama-3.2-1B's shape", "1b", OURS)
