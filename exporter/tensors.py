"""Weights as streams of rows.

A checkpoint of a 70B model does not fit into memory and need not: every consumer (encoder, interpreter,
hash) reads a weight a few rows at a time. :class:`RowTensor` is an ``onnx_ir`` tensor with that one extra
ability, and the functions below are thunks on thunks: joining model-parallel shards, permuting rows or
slicing builds a new ``RowTensor`` that reads its parents when somebody asks for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]
ReadRows = Callable[[int, int], Array]

CHUNK_WEIGHTS = 1 << 20
"""Default number of weights in one streamed chunk: large against the cost of a task, small against memory."""


@dataclass(frozen=True)
class EncodedRows:
    """The bytes a tensor already has in a block format, so that they can be copied untouched.

    Attributes:
        type_name: ggml's name of the format, e.g. ``"Q4_1"``.
        row_nbytes: Bytes of one row.
        read: ``read(start, stop)`` -> ``uint8 [stop - start, row_nbytes]``.
    """

    type_name: str
    row_nbytes: int
    read: ReadRows


@dataclass(frozen=True)
class QuantizedRows:
    """The integers and scales a matrix was stored as, so that they can be exported as they are.

    Attributes:
        ints: INT4 or INT8 ``[out, in]``; rows are int8.
        scales: float32 ``[out, in / block_size]``.
        block_size: Consecutive columns that share a scale.
    """

    ints: RowTensor
    scales: RowTensor
    block_size: int


class RowTensor(ir.LazyTensor):
    """A lazily read tensor whose first axis can be sliced without reading the rest.

    Args:
        name: Canonical name, e.g. ``layers.0.attention.wq.weight``.
        dtype: Element type that ``read`` returns (bfloat16 as ``ml_dtypes.bfloat16``, int4 as ``int8``).
        shape: Static shape; rows are the first axis, also of a vector.
        read: ``read(start, stop)`` -> array of shape ``(stop - start, *shape[1:])``. Must be thread-safe.
        encoded: The same rows in the block format they were stored in, if they were.
        quantized: The integers and scales that they are decoded from, if they are (:func:`dequantized`).
    """

    __slots__ = ("encoded", "quantized", "read")

    def __init__(
        self,
        name: str,
        dtype: ir.DataType,
        shape: Sequence[int],
        read: ReadRows,
        *,
        encoded: EncodedRows | None = None,
        quantized: QuantizedRows | None = None,
    ) -> None:
        def whole() -> ir.TensorProtocol:
            # Not a method: a tensor that refers to itself keeps its weights until somebody collects garbage.
            return ir.Tensor(read(0, int(shape[0])).astype(dtype.numpy(), copy=False), dtype=dtype)

        super().__init__(whole, dtype=dtype, shape=ir.Shape(shape), name=name)
        self.read = read
        self.encoded = encoded
        self.quantized = quantized

    def __repr__(self) -> str:
        return f"RowTensor({self.name!r}, {self.dtype.name}, {list(self.dims)})"

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape as plain integers."""
        return tuple(int(d) for d in self.shape.numpy())

    @property
    def n_rows(self) -> int:
        return self.dims[0]

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` in the tensor's own dtype, shape ``(stop - start, *dims[1:])``."""
        return self.read(start, stop)

    def rows_f32(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start`` to ``stop`` widened to float32 (exact for float16 and bfloat16)."""
        return to_f32(self.read(start, stop))

    def row_ranges(self, chunk_weights: int = CHUNK_WEIGHTS) -> Iterator[tuple[int, int]]:
        """Consecutive ``(start, stop)`` that cover the tensor in chunks of about ``chunk_weights`` elements."""
        step = max(1, chunk_weights // max(1, self.size // max(1, self.n_rows)))
        for start in range(0, self.n_rows, step):
            yield start, min(start + step, self.n_rows)

    def tofile(self, file: Any) -> None:
        """Write the raw bytes chunk by chunk; sub-byte types, which pack across rows, in one piece."""
        if self.dtype.itemsize < 1:
            file.write(self.tobytes())
            return
        for start, stop in self.row_ranges():
            file.write(contiguous_bytes(self.read(start, stop)))


def to_f32(array: Array) -> npt.NDArray[np.float32]:
    """Widen to float32; bfloat16 by shifting bits, which numpy does several times faster than a cast."""
    if array.dtype == np.float32:
        return array
    if array.dtype == ir.DataType.BFLOAT16.numpy():
        return (array.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32)


def contiguous_bytes(array: Array) -> memoryview:
    """The array's bytes in C order, without a copy where it already is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_array(name: str, array: Array) -> RowTensor:
    """A tensor that is in memory already (tests, small constants)."""
    return RowTensor(name, ir.DataType.from_numpy(array.dtype), array.shape, lambda a, b: array[a:b])


def renamed(tensor: RowTensor, name: str) -> RowTensor:
    """The same rows under another name."""
    return RowTensor(name, tensor.dtype, tensor.dims, tensor.read, encoded=tensor.encoded, quantized=tensor.quantized)


def dequantized(name: str, parts: QuantizedRows) -> RowTensor:
    """``ints * scales`` in float32, decoded as its rows are asked for."""

    def read(start: int, stop: int) -> Array:
        q = parts.ints.rows(start, stop)
        blocks = q.reshape(len(q), q.shape[1] // parts.block_size, parts.block_size).astype(np.float32)
        blocks *= parts.scales.rows_f32(start, stop)[:, :, None]
        return blocks.reshape(q.shape)

    return RowTensor(name, ir.DataType.FLOAT, parts.ints.dims, read, quantized=parts)


def permute_rows(tensor: RowTensor, index: npt.NDArray[np.intp]) -> RowTensor:
    """Row ``i`` of the result is row ``index[i]`` of ``tensor``; ``index`` may also select fewer rows.

    Only the rows between the smallest and largest index of a request are read, which for the per-head
    Q/K permutation is one head.
    """

    def gather(read: ReadRows) -> ReadRows:
        def rows(start: int, stop: int) -> Array:
            wanted = index[start:stop]
            if not len(wanted):
                return read(0, 0)
            low = int(wanted.min())
            return read(low, int(wanted.max()) + 1)[wanted - low]

        return rows

    old = tensor.encoded
    encoded = None if old is None else EncodedRows(old.type_name, old.row_nbytes, gather(old.read))
    shape = (len(index), *tensor.dims[1:])
    return RowTensor(tensor.name or "", tensor.dtype, shape, gather(tensor.read), encoded=encoded)


def select_rows(tensor: RowTensor, index: npt.NDArray[np.intp]) -> RowTensor:
    """Rows ``index`` of ``tensor``, ascending and few or in long runs: each run of neighbours is one read.

    What lies between the runs is never read (:func:`permute_rows` reads it).
    """

    def gather(read: ReadRows) -> ReadRows:
        def rows(start: int, stop: int) -> Array:
            wanted = index[start:stop]
            if not len(wanted):
                return read(0, 0)
            runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
            parts = [read(int(run[0]), int(run[-1]) + 1) for run in runs]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return rows

    old = tensor.encoded
    encoded = None if old is None else EncodedRows(old.type_name, old.row_nbytes, gather(old.read))
    shape = (len(index), *tensor.dims[1:])
    return RowTensor(str(tensor.name), tensor.dtype, shape, gather(tensor.read), encoded=encoded)


def select_columns(tensor: RowTensor, index: npt.NDArray[np.intp]) -> RowTensor:
    """Columns ``index`` of a matrix. Blocks of a quantized source span columns, so that none are kept."""
    shape = (tensor.n_rows, len(index))
    return RowTensor(str(tensor.name), tensor.dtype, shape, lambda a, b: tensor.rows(a, b)[:, index])


def concat(name: str, tensors: Sequence[RowTensor], axis: int) -> RowTensor:
    """Join along ``axis`` 0 or the last one (model-parallel shards)."""
    first = tensors[0]
    if axis != 0:
        shape = (*first.dims[:-1], sum(t.dims[-1] for t in tensors))
        return RowTensor(
            name,
            first.dtype,
            shape,
            lambda a, b: np.concatenate([t.rows(a, b) for t in tensors], axis=-1),
        )
    ends = np.cumsum([t.n_rows for t in tensors])

    def rows(start: int, stop: int) -> Array:
        parts = []
        for tensor, end in zip(tensors, ends, strict=True):
            begin = int(end) - tensor.n_rows
            a, b = max(start, begin), min(stop, int(end))
            if a < b:
                parts.append(tensor.rows(a - begin, b - begin))
        if not parts:
            return first.rows(0, 0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return RowTensor(name, first.dtype, (int(ends[-1]), *first.dims[1:]), rows)
