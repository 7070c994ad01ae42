"""Tiny programs for these tests: one variant written, loaded in this process and run, with no pipeline around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import worker
from exporter.targets.executorch.plan import ExecuTorchPlan
from exporter.targets.executorch.target import EXECUTORCH
from tests.fixtures.models import TinySpec

SPEC = TinySpec(max_seq_len=256)
"""Grouped queries, an untied head, a head width that is not ``dim / n_heads``, and a small cache."""

Folder = Callable[[TinySpec], Path]


@dataclass(frozen=True)
class Export:
    """One program on the disk."""

    source: Source
    plan: ExecuTorchPlan
    path: Path
    data: Path | None = None

    def load(self) -> Program:
        return Program(worker.open_program(str(self.path), None if self.data is None else str(self.data)))


class Program:
    """A program in this process: children cost three seconds each."""

    def __init__(self, program: Any) -> None:
        self.program = program

    def forward(self, ids: Sequence[int], position: int) -> npt.NDArray[np.float32]:
        """Logits of the last token, ``[vocab_size]``."""
        return worker.forward(self.program, ids, position)

    def logits(self, ids: Sequence[int], prefill: int) -> npt.NDArray[np.float32]:
        """Logits from position ``prefill - 1`` on: one batch, then token by token."""
        rows = [self.forward(ids[:prefill], 0)]
        rows += [self.forward(ids[i : i + 1], i) for i in range(prefill, len(ids))]
        return np.stack(rows)


def export(checkpoint: Path, out: Path, quant: str = "f32", options: Options | None = None) -> Export:
    """Write one program and its shared files below ``out``."""
    source = open_source(str(checkpoint), SourceOptions())
    plan = EXECUTORCH.plan(source.subject(), quant, options or Options())
    program, *data = (out / file.path for file in plan.write(out, lambda *_: None))
    for path, text in EXECUTORCH.shared_files(source.subject(), {quant: plan.files}).items():
        (out / path).write_bytes(text.encode() if isinstance(text, str) else text)
    return Export(source, plan, program, *data)


def relative(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference in standard deviations of what is expected."""
    return float(np.abs(found - expected).max() / expected.std())
