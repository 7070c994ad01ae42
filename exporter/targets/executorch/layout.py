"""The ``.pte`` file: the program's flatbuffer, its delegates, and its weights unless they have a file of their own.

Tensors that the program's kernels read lie in one segment, each delegate and each named weight in one of its own. Two
segments may be the same bytes: so a tied embedding, which a kernel reads by its offset and XNNPACK by its name, is
stored once.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from exporter.targets.base import Progress, WrittenFile
from exporter.targets.executorch import wheel
from exporter.targets.executorch.program import Constants, constant_methods
from exporter.targets.executorch.segments import Segments, aligned, with_header
from exporter.targets.executorch.walk import Lowered
from exporter.targets.streaming import HashedFile

HEADER = 32
"""Bytes of the header (``exir/_serialize/_program.py``, ``_ExtendedHeader``)."""


class Layout:
    """A lowered program with its place in the file.

    Args:
        lowered: The program.
        methods: What its constant methods return.
        split: Whether the model's weights lie in another file.

    Attributes:
        head: The file up to its first delegate.
        nbytes: Size of the file.
    """

    def __init__(self, lowered: Lowered, methods: Constants, *, split: bool = False) -> None:
        self._program = lowered.program
        self._methods = methods
        self._constants = lowered.own_constants if split else lowered.constants
        self._external = lowered.constants if split else []
        self._delegates = [call.delegate.serialized() for call in lowered.program.calls]
        self._segments = Segments(
            lowered.own_weights if split else lowered.weights, sum(aligned(len(data)) for data in self._delegates)
        )

    @cached_property
    def head(self) -> bytes:
        flatbuffer = wheel.encode(wheel.PROGRAM, self.document)
        size = len(flatbuffer) + HEADER
        header = b"eh00" + b"".join(
            number.to_bytes(width, "little")
            for number, width in ((HEADER, 4), (size, 8), (aligned(size), 8), (self._segments.end, 8))
        )
        return with_header(flatbuffer, header)

    @property
    def nbytes(self) -> int:
        return len(self.head) + self._segments.end

    @property
    def planned_bytes(self) -> int:
        """Memory that the runtime takes when it loads the program: the cache, and what kernels hand to each other."""
        return sum(self.document["execution_plan"][0]["non_const_buffer_sizes"])

    @cached_property
    def document(self) -> dict[str, Any]:
        """The flatbuffer's tables."""
        segments = []
        at = 0
        for data in self._delegates:
            segments.append({"offset": at, "size": len(data)})
            at += aligned(len(data))
        blobs, offsets = list(self._segments.blobs), self._segments.offsets
        constant_segment: dict[str, Any] = {"segment_index": 0, "offsets": []}
        if self._constants:
            begin = min(offsets[key] for key in self._constants)
            end = max(offsets[blob.key] + blob.nbytes for blob in blobs if blob.key in self._constants)
            # Number 0 stands for tensors that are no constants.
            places = [0, *(offsets[key] - begin for key in self._constants)]
            constant_segment = {"segment_index": len(segments), "offsets": places}
            segments.append({"offset": begin, "size": end - begin})
        named = []
        for blob in (blob for blob in blobs if blob.key in self._program.read_by_name):
            named.append({"key": blob.key, "segment_index": len(segments)})
            segments.append({"offset": offsets[blob.key], "size": blob.nbytes})
        forward = self._program.to_document(range(len(self._delegates)), self._constants)
        return {
            "version": 0,
            "execution_plan": [forward, *constant_methods(self._methods)],
            "constant_buffer": [],
            "backend_delegate_data": [],
            "segments": segments,
            "constant_segment": constant_segment,
            "mutable_data_segments": [],
            "named_data": named,
        }

    def write(self, path: Path, name: str, jobs: int, progress: Progress) -> WrittenFile:
        """Stream the file; ``name`` is its path below the output folder."""
        file = HashedFile(path, progress)
        try:
            file.write(self.head)
            for data in self._delegates:
                file.write(data)
                file.pad_to(len(self.head) + aligned(file.size - len(self.head)))
            self._segments.write(file, len(self.head), jobs)
        finally:
            written = file.close(name)
        return written
