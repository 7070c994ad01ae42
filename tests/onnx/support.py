"""Tiny exports for these tests: one variant written, loaded and read, without the pipeline around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.onnx.plan import OnnxPlan
from exporter.targets.onnx.runtime import OnnxRuntime
from exporter.targets.onnx.target import ONNX
from tests.fixtures.models import TinySpec

SPEC = TinySpec(head_dim=32)
"""Grouped queries, an untied head, a head width that is not ``dim / n_heads`` but one that ONNX Runtime computes."""


@dataclass(frozen=True)
class Export:
    """One variant on the disk."""

    source: Source
    plan: OnnxPlan
    paths: list[Path]

    @property
    def folder(self) -> Path:
        """The repository."""
        return self.paths[0].parent.parent

    def load(self) -> OnnxRuntime:
        return OnnxRuntime(self.paths[0])

    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.paths[0], load_external_data=False).graph


def export(checkpoint: Path, out: Path, quant: str = "f32", options: Options | None = None) -> Export:
    """Write one variant of a checkpoint below ``out``."""
    source = open_source(str(checkpoint), SourceOptions())
    plan = ONNX.plan(source.subject(), quant, options or Options())
    written = plan.write(out, lambda *_: None)
    for path, text in ONNX.shared_files(source.subject(), {plan.variant.quant.name: plan.files}).items():
        (out / path).write_bytes(text.encode() if isinstance(text, str) else text)
    return Export(source, plan, [out / file.path for file in written])


def left_padded(rows: list[list[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and attention mask ``[batch, longest]`` as Transformers.js pads them."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = row
        mask[i, longest - len(row) :] = 1
    return ids, mask


def relative(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference in standard deviations of what is expected."""
    return float(np.abs(found - expected).max() / expected.std())
