"""The ``.ptd`` file: a model's weights by name, for one program or several.

Format: executorch's ``extension/flat_tensor/serialize/flat_tensor.fbs``, with a header as ``serialize.py`` beside it
lays it out. What a kernel reads as a tensor carries that tensor's type and shape; what XNNPACK reads is bytes.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from exporter.targets.base import Progress, WrittenFile
from exporter.targets.executorch import wheel
from exporter.targets.executorch.program import SCALAR_TYPES
from exporter.targets.executorch.segments import Segments, aligned, with_header
from exporter.targets.executorch.walk import Lowered
from exporter.targets.streaming import HashedFile

HEADER = 48
"""Bytes: forty of header, padded to the flatbuffer's alignment of sixteen."""


class DataFile:
    """The weights of a lowered model that belong to no program alone.

    Args:
        lowered: The program that reads them.

    Attributes:
        head: The file up to its first weight.
        nbytes: Size of the file.
    """

    def __init__(self, lowered: Lowered) -> None:
        own = {blob.key for weight in lowered.own_weights for blob in weight.blobs}
        self._segments = Segments([w for w in lowered.weights if w.blobs[0].key not in own])
        self._tensors = {tensor.name: tensor for tensor in lowered.program.constants}

    @cached_property
    def head(self) -> bytes:
        offsets = self._segments.offsets
        blobs = list(self._segments.blobs)
        named = []
        for index, blob in enumerate(blobs):
            named.append({"key": blob.key, "segment_index": index})
            if blob.key in self._tensors:
                tensor = self._tensors[blob.key]
                named[-1]["tensor_layout"] = {
                    "scalar_type": SCALAR_TYPES[tensor.dtype],
                    "sizes": list(tensor.shape),
                    "dim_order": list(range(len(tensor.shape))),
                }
        document = {
            "version": 0,
            "segments": [{"offset": offsets[blob.key], "size": blob.nbytes} for blob in blobs],
            "named_data": named,
        }
        flatbuffer = wheel.encode(wheel.FLAT_TENSOR, document)
        numbers = (
            (40, 4),
            (HEADER, 8),
            (len(flatbuffer), 8),
            (aligned(len(flatbuffer) + HEADER), 8),
            (self._segments.end, 8),
        )
        header = b"FH01" + b"".join(number.to_bytes(width, "little") for number, width in numbers)
        return with_header(flatbuffer, header.ljust(HEADER, b"\0"))

    @property
    def nbytes(self) -> int:
        return len(self.head) + self._segments.end

    def write(self, path: Path, name: str, jobs: int, progress: Progress) -> WrittenFile:
        """Stream the file; ``name`` is its path below the output folder."""
        file = HashedFile(path, progress)
        try:
            file.write(self.head)
            self._segments.write(file, len(self.head), jobs)
        finally:
            written = file.close(name)
        return written
