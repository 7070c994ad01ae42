"""Encoded rows in file order, computed on all cores ahead of the writer.

A model is one long sequence of row chunks. A few chunks are always in flight on worker threads (the encoders
release the GIL); the writer takes them in order. Memory is bounded by the chunks in flight, not by any tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from exporter.targets.base import Progress
from exporter.tensors import Array, RowTensor, contiguous_bytes

IN_FLIGHT_WEIGHTS = 4 << 20
"""Weights being encoded or waiting to be written, whatever the number of threads: what bounds the memory."""

Encode = Callable[[int, int], Array]


def chunk_weights(jobs: int) -> int:
    """Weights of one chunk: ``jobs`` are at work, one is being written and one waits."""
    return IN_FLIGHT_WEIGHTS // (jobs + 2)


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor of the file whose bytes are made on demand.

    Attributes:
        name: Name in the file.
        type_name: ggml's type.
        nbytes: Bytes in the file, without padding.
        source: The rows it is made of; only their ranges are used here.
        encode: ``encode(start, stop)`` -> array whose C-order bytes are these rows in the file.
    """

    name: str
    type_name: str
    nbytes: int
    source: RowTensor
    encode: Encode

    def ranges(self, jobs: int) -> Sequence[tuple[int, int]]:
        return list(self.source.row_ranges(chunk_weights(jobs)))


def _tasks(tensors: Sequence[EncodedTensor], jobs: int) -> Iterator[tuple[Encode, int, int]]:
    for tensor in tensors:
        for start, stop in tensor.ranges(jobs):
            yield tensor.encode, start, stop


def encoded_chunks(tensors: Sequence[EncodedTensor], jobs: int) -> Iterator[Array]:
    """Every chunk of every tensor, in order; ``jobs`` threads work ahead of the consumer."""
    pending: deque[Future[Array]] = deque()
    pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="encode")
    try:
        for encode, start, stop in _tasks(tensors, jobs):
            pending.append(pool.submit(encode, start, stop))
            if len(pending) > jobs + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class TensorStream:
    """One tensor of the sequence, in the shape that ``gguf.GGUFWriter.write_tensor_data`` takes."""

    def __init__(self, tensor: EncodedTensor, chunks: Iterator[Array], jobs: int, progress: Progress) -> None:
        self.nbytes = tensor.nbytes
        self._n_chunks = len(tensor.ranges(jobs))
        self._chunks = chunks
        self._progress = progress
        self._name = tensor.name

    def tofile(self, file: BinaryIO | Any) -> None:
        for _ in range(self._n_chunks):
            data = contiguous_bytes(next(self._chunks))
            file.write(data)
            self._progress(len(data), self._name)
