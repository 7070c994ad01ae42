"""Rows straight out of a memory-mapped file: nothing is read before somebody looks, nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import CheckpointError
from exporter.tensors import Array, ReadRows, RowTensor

Bytes = npt.NDArray[np.uint8]


def map_file(path: Path) -> Bytes:
    """The file's bytes as a read-only array backed by the page cache.

    Raises:
        CheckpointError: The file is empty, which cannot be mapped.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty", expected="weights", found="0 bytes", hint="download the file again")
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def mapped_rows(data: Bytes, offset: int, dtype: np.dtype[Any], shape: Sequence[int]) -> ReadRows:
    """A reader of rows of a C-ordered ``dtype`` array of ``shape`` that starts at byte ``offset``."""
    row_shape = tuple(shape[1:])
    row_nbytes = math.prod(row_shape) * dtype.itemsize

    def read(start: int, stop: int) -> Array:
        chunk = data[offset + start * row_nbytes : offset + stop * row_nbytes]
        return chunk.view(dtype).reshape(stop - start, *row_shape)

    return read


def mapped_tensor(name: str, data: Bytes, offset: int, dtype: ir.DataType, shape: Sequence[int]) -> RowTensor:
    """A tensor stored as plain numbers, little-endian, in C order."""
    return RowTensor(name, dtype, shape, mapped_rows(data, offset, dtype.numpy(), shape))
