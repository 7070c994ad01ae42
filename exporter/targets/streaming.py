"""Weights on their way into a file: made ahead on threads, written in order, hashed as they pass."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from exporter.targets.base import Progress, WrittenFile
from exporter.tensors import Array, contiguous_bytes

Task = Callable[[], tuple[Array, ...]]
"""Makes the next bytes of every blob of a weight."""


class HashedFile:
    """A file being written, hashed on the way.

    Attributes:
        size: Bytes so far.
        writing: What the bytes belong to, for the progress.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._progress = progress
        self.size = 0
        self.writing = ""

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)
        self._progress(len(data), self.writing)

    def pad_to(self, offset: int) -> None:
        self.write(bytes(offset - self.size))

    def close(self, path: str) -> WrittenFile:
        """End the file; ``path`` is its name below the output folder."""
        self._file.close()
        return WrittenFile(path, self.size, self._digest.hexdigest())


def made_ahead(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Array, ...]]:
    """The result of every task in order; ``jobs`` threads work ahead of the writer."""
    pending: deque[Future[tuple[Array, ...]]] = deque()
    pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="encode")
    try:
        for task in tasks:
            pending.append(pool.submit(task))
            if len(pending) > jobs + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def write_weight(
    file: HashedFile, name: str, chunks: Iterator[tuple[Array, ...]], n_tasks: int, offsets: Sequence[int]
) -> None:
    """Write the blobs of one weight at their offsets.

    The first blob passes through; the others, small against it, wait in memory until it is out.
    """
    waiting: list[tuple[Array, ...]] = []
    file.writing = name
    file.pad_to(offsets[0])
    for _ in range(n_tasks):
        first, *others = next(chunks)
        file.write(contiguous_bytes(first))
        waiting.append(tuple(others))
    for index, offset in enumerate(offsets[1:]):
        file.pad_to(offset)
        for parts in waiting:
            file.write(contiguous_bytes(parts[index]))
