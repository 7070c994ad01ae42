"""Weights one behind the other, streamed, and the header that says where they begin.

Both files that hold weights are made alike (executorch ``exir/_serialize/_program.py``,
``extension/flat_tensor/serialize/serialize.py``): a flatbuffer with a header inserted after its first eight bytes, then
segments whose offsets count from the end of the flatbuffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.targets.executorch.subgraph import Constant
from exporter.targets.executorch.weights import Weight
from exporter.targets.streaming import HashedFile, made_ahead, write_weight

ALIGNMENT = 128
"""Bytes; executorch's default for segments, more than any tensor needs."""


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def with_header(flatbuffer: bytes, header: bytes) -> bytes:
    """The flatbuffer with a header after its first eight bytes, padded to where segments begin."""
    root = int.from_bytes(flatbuffer[:4], "little") + len(header)
    data = root.to_bytes(4, "little") + flatbuffer[4:8] + header + flatbuffer[8:]
    return data.ljust(aligned(len(data)), b"\0")


class Segments:
    """Where each blob of some weights lies.

    Args:
        weights: In the order of the file.
        begin: Bytes of segments before them.

    Attributes:
        offsets: Blob -> offset from the first segment.
        end: End of the last blob.
    """

    def __init__(self, weights: Sequence[Weight], begin: int = 0) -> None:
        self.weights = weights
        self.offsets: dict[str, int] = {}
        self.end = begin
        for blob in self.blobs:
            self.offsets[blob.key] = aligned(self.end)
            self.end = self.offsets[blob.key] + blob.nbytes

    @property
    def blobs(self) -> Iterator[Constant]:
        return (blob for weight in self.weights for blob in weight.blobs)

    def write(self, file: HashedFile, base: int, jobs: int) -> None:
        """Stream them into a file whose first segment begins at ``base``."""
        chunks = made_ahead((task for weight in self.weights for task in weight.tasks), jobs)
        for weight in self.weights:
            offsets = [base + self.offsets[blob.key] for blob in weight.blobs]
            write_weight(file, weight.blobs[0].key.removesuffix(".ints"), chunks, len(weight.tasks), offsets)
