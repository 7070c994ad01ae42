"""The file: the program's flatbuffer, and behind it segments of weights, streamed.

``executorch``'s own serializer (``exir/_serialize/_program.py``) defines the layout: the flatbuffer with a header
inserted after its first eight bytes, then the segments, whose offsets count from the end of the flatbuffer. Tensors
that the program's kernels read lie in one segment, each delegate and each named weight in one of its own. Two
segments may be the same bytes: so a tied embedding, which a kernel reads by its offset and XNNPACK by its name, is
stored once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from exporter.targets.base import Progress, WrittenFile
from exporter.targets.executorch import wheel
from exporter.targets.executorch.lower import Lowered
from exporter.targets.executorch.program import Constants, constant_methods
from exporter.targets.streaming import HashedFile, made_ahead, write_weight

ALIGNMENT = 128
"""Bytes; executorch's default for segments, more than any tensor needs."""
HEADER = 32
"""Bytes of the header that follows the flatbuffer's first eight."""


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


class Layout:
    """A lowered program with its place in the file.

    Args:
        lowered: The program.
        methods: What its constant methods return.

    Attributes:
        head: The file up to its first segment of weights, delegates included.
        nbytes: Size of the file.
    """

    def __init__(self, lowered: Lowered, methods: Constants) -> None:
        self._lowered = lowered
        self._methods = methods

    @cached_property
    def _delegates(self) -> list[bytes]:
        return [call.graph.serialized() for call in self._lowered.program.calls]

    @cached_property
    def _offsets(self) -> Mapping[str, int]:
        """Blob -> offset from the first segment."""
        end = sum(aligned(len(data)) for data in self._delegates)
        offsets = {}
        for weight in self._lowered.weights:
            for blob in weight.blobs:
                offsets[blob.key] = end
                end += aligned(blob.nbytes)
        return offsets

    @cached_property
    def head(self) -> bytes:
        flatbuffer = wheel.encode(wheel.PROGRAM, self.document)
        size = len(flatbuffer) + HEADER
        base = aligned(size)
        header = b"eh00" + b"".join(
            number.to_bytes(width, "little")
            for number, width in ((HEADER, 4), (size, 8), (base, 8), (self._segment_bytes, 8))
        )
        root = int.from_bytes(flatbuffer[:4], "little") + HEADER
        program = root.to_bytes(4, "little") + flatbuffer[4:8] + header + flatbuffer[8:]
        delegates = b"".join(data.ljust(aligned(len(data)), b"\0") for data in self._delegates)
        return program.ljust(base, b"\0") + delegates

    @property
    def _segment_bytes(self) -> int:
        last = self._lowered.weights[-1].blobs[-1]
        return self._offsets[last.key] + last.nbytes

    @property
    def nbytes(self) -> int:
        before = sum(aligned(len(data)) for data in self._delegates)
        return len(self.head) - before + self._segment_bytes

    @cached_property
    def document(self) -> dict[str, Any]:
        """The flatbuffer's tables."""
        segments = []
        at = 0
        for data in self._delegates:
            segments.append({"offset": at, "size": len(data)})
            at += aligned(len(data))
        constants = self._lowered.constants
        begin = min(self._offsets[key] for key in constants)
        end = max(
            self._offsets[blob.key] + blob.nbytes
            for w in self._lowered.weights
            for blob in w.blobs
            if blob.key in constants
        )
        constant_segment = len(segments)
        segments.append({"offset": begin, "size": end - begin})
        read_by_name = {key for call in self._lowered.program.calls for key in call.graph.constant_keys}
        named = []
        for blob in (blob for weight in self._lowered.weights for blob in weight.blobs if blob.key in read_by_name):
            named.append({"key": blob.key, "segment_index": len(segments)})
            segments.append({"offset": self._offsets[blob.key], "size": blob.nbytes})
        forward = self._lowered.program.to_document(range(len(self._delegates)))
        return {
            "version": 0,
            "execution_plan": [forward, *constant_methods(self._methods)],
            "constant_buffer": [],
            "backend_delegate_data": [],
            "segments": segments,
            "constant_segment": {
                "segment_index": constant_segment,
                # Number 0 stands for tensors that are no constants.
                "offsets": [0, *(self._offsets[key] - begin for key in constants)],
            },
            "mutable_data_segments": [],
            "named_data": named,
        }

    def write(self, path: Path, name: str, jobs: int, progress: Progress) -> WrittenFile:
        """Stream the file; ``name`` is its path below the output folder."""
        file = HashedFile(path, progress)
        try:
            file.write(self.head)
            base = len(self.head) - sum(aligned(len(data)) for data in self._delegates)
            weights = self._lowered.weights
            chunks = made_ahead((task for weight in weights for task in weight.tasks), jobs)
            for weight in weights:
                offsets = [base + self._offsets[blob.key] for blob in weight.blobs]
                write_weight(file, chunks, len(weight.tasks), offsets)
        finally:
            written = file.close(name)
        return written
