"""Where each initializer lies: external data files below the size that a browser can hold, and their writing.

Names as Transformers.js looks for them (its ``models/session.js``): ``<model>.onnx_data``, ``<model>.onnx_data_1``, ….
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import TargetError
from exporter.targets.base import PlannedFile, Progress, WrittenFile
from exporter.targets.onnx.weights import Weight
from exporter.targets.streaming import HashedFile, made_ahead, write_weight

MAX_FILE_BYTES = (1 << 31) - (1 << 20)
"""A JavaScript ``ArrayBuffer`` and the wasm loader of ONNX Runtime take files below 2 GiB."""
ALIGNMENT = 64
"""Bytes; a cache line, which also aligns every element type."""


@dataclass(frozen=True)
class Placed:
    """A weight and where it goes: the offset of each of its blobs in data file number ``file``."""

    weight: Weight
    file: int
    offsets: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offsets[-1] + self.weight.blobs[-1].nbytes


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def place(weights: Sequence[Weight], max_bytes: int) -> list[Placed]:
    """Lay weights out in order, opening a new file where one would grow beyond ``max_bytes``.

    Raises:
        TargetError: If one weight alone is larger.
    """
    placed: list[Placed] = []
    file, end = 0, 0
    for weight in weights:
        at = _offsets(weight, end)
        if end and at.end > max_bytes:
            file, at = file + 1, _offsets(weight, 0)
        if at.end > max_bytes:
            raise TargetError(
                f"{weight.blobs[0].name} does not fit into one file that a browser can load",
                expected=f"at most {max_bytes} bytes",
                found=at.end,
                hint="choose a smaller variant, e.g. int4",
            )
        placed.append(Placed(weight, file, at.offsets))
        end = at.end
    return placed


def _offsets(weight: Weight, end: int) -> Placed:
    offsets = []
    for blob in weight.blobs:
        offsets.append(_aligned(end))
        end = offsets[-1] + blob.nbytes
    return Placed(weight, 0, tuple(offsets))


def data_name(model_name: str, file: int) -> str:
    """Name of data file number ``file`` of ``model_name`` (``model_q4.onnx``)."""
    return f"{model_name}_data" if file == 0 else f"{model_name}_data_{file}"


def data_files(placed: Sequence[Placed], model_path: str) -> list[PlannedFile]:
    """The data files with their sizes."""
    ends = {at.file: at.end for at in placed}
    return [PlannedFile(data_name(model_path, file), end) for file, end in ends.items()]


def write_data(
    placed: Sequence[Placed], model_path: str, folder: Path, jobs: int, progress: Progress
) -> list[WrittenFile]:
    """Stream the weights into their files below ``folder``."""
    chunks = made_ahead((task for at in placed for task in at.weight.tasks), jobs)
    written = []
    for number, planned in enumerate(data_files(placed, model_path)):
        sink = HashedFile(folder / planned.path, progress)
        try:
            for at in (at for at in placed if at.file == number):
                write_weight(sink, at.weight.blobs[0].name, chunks, len(at.weight.tasks), at.offsets)
        finally:
            file = sink.close(planned.path)
        written.append(file)
    return written
