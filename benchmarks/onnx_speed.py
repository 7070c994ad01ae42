"""``python -m benchmarks.onnx speed``: time to the first token and tokens a second in ONNX Runtime on two threads.

A prompt of 64 tokens, then 64 greedy steps of one token, three times. The files of a group take turns of eight steps,
so that a busy moment of the machine meets them all. The first token is the median of three, the speed that of the
median step. ONNX Runtime has its default settings but for the number of threads.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import CACHE, table
from benchmarks.exports import export
from benchmarks.onnx_peers import GENAI_INT4, OPTIMUM, RECIPE, Peer
from benchmarks.onnx_session import Cache, Session
from benchmarks.rescaled import demo_checkpoint
from benchmarks.shapes import make_checkpoint
from exporter import parity
from exporter.source import SourceOptions, open_source
from scripts.fetch_models import fetch

PROMPT, TURNS, STEPS_PER_TURN, ROUNDS = 64, 8, 8, 3

Group = tuple[tuple[str, ...], tuple[Peer, ...]]
"""Quantizations of ours and the peers' files of the same type."""
SMALL: Sequence[Group] = (
    (("int4",), (GENAI_INT4, RECIPE["q4"])),
    (("q4f16",), (RECIPE["q4f16"],)),
    (("q8", "int8"), (RECIPE["q8"],)),
    (("f16",), (RECIPE["fp16"],)),
    (("f32",), (OPTIMUM,)),
)
LARGE: Sequence[Group] = ((("int4",), (GENAI_INT4,)),)


@dataclass
class _Contender:
    """A loaded file and its times in seconds: of each prompt and of each step."""

    name: str
    session: Session
    prompts: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    _cache: Cache = field(default_factory=dict)
    _next: list[int] = field(default_factory=list)

    def begin(self, prompt: list[int]) -> None:
        self._next, self._cache = prompt, self.session.empty
        self.prompts.append(self._step())

    def take_turn(self) -> None:
        self.steps += [self._step() for _ in range(STEPS_PER_TURN)]

    def _step(self) -> float:
        begin = time.perf_counter()
        logits, self._cache = self.session.step(self._next, self._cache, keep=1)
        self._next = [int(logits[-1].argmax())]
        return time.perf_counter() - begin

    @property
    def tokens_per_second(self) -> float:
        return 1 / statistics.median(self.steps)


def _folders(model: Path, group: Group, scratch: Path) -> Iterator[tuple[str, Path]]:
    quants, peers = group
    for quant in quants:
        export(model, "onnx", quant, scratch / quant)
        yield f"exporter {quant}", scratch / quant
    for peer in peers:
        yield peer.name, peer.kept(model)


def _rows(name: str, model: Path, groups: Sequence[Group]) -> None:
    source = open_source(str(model), SourceOptions())
    prompt = parity.probe_tokens(source.tokenizer, source.config)[:PROMPT]
    for group in groups:
        with tempfile.TemporaryDirectory() as scratch:
            contenders = [
                _Contender(file, Session(next(folder.rglob("*.onnx")), source.config))
                for file, folder in _folders(model, group, Path(scratch))
            ]
            for _ in range(ROUNDS):
                for contender in contenders:
                    contender.begin(prompt)
                for contender in contenders * TURNS:
                    contender.take_turn()
        for contender in contenders:
            speed = contender.tokens_per_second
            ratio = contenders[0].tokens_per_second / speed
            table.row(
                name, contender.name, f"{statistics.median(contender.prompts):.3f}", f"{speed:.1f}", f"{ratio:.2f}"
            )


def run() -> None:
    """Print the table."""
    table.head("model", "file", "first token s", "tokens/s", "first of the group / this")
    _rows("SmolLM2-135M", demo_checkpoint(0.0), SMALL)
    large = make_checkpoint(CACHE / "llama-1b", "1b", fetch("llama3-tokenizer").parent)
    _rows("Llama-3.2-1B's shape", large, LARGE)
