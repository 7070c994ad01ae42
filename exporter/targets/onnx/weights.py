"""Weights as the bytes of ONNX initializers, a chunk of rows at a time.

Layout of ``com.microsoft.MatMulNBits`` (ONNX Runtime, ``docs/ContribOperators.md``): ``B`` is uint8
``[N, K / 32, 32 * bits / 8]``, two 4-bit values a byte with the even column in the lower half; without zero points
a stored value ``u`` means ``u - 2 ** (bits - 1)``. ``scales`` has one number a block. ``MatMulInteger`` takes its
matrix as ``[K, N]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.quant.apply import cast_tensor
from exporter.targets.streaming import Task
from exporter.tensors import Array, RowTensor

Part = tuple[RowTensor, RowTensor]
"""Integers ``[out, in]`` and scales ``[out, in / block]`` of one matrix."""

INTS = ".ints"
"""Ends the name of integers, after the weight's own."""


@dataclass(frozen=True)
class Blob:
    """One initializer of the file: name, element type and shape."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype.itemsize)


@dataclass(frozen=True)
class Weight:
    """Initializers that are made together.

    Attributes:
        blobs: The first is large and streamed; the others are small against it.
        tasks: Called in order or ahead on threads; each returns the next bytes of every blob.
    """

    blobs: tuple[Blob, ...]
    tasks: tuple[Task, ...]

    @property
    def nbytes(self) -> int:
        return sum(blob.nbytes for blob in self.blobs)


def float_weight(name: str, parts: Sequence[RowTensor], dtype: ir.DataType) -> Weight:
    """Matrices ``[out_i, in]`` stacked into one ``[sum(out_i), in]``, or one vector.

    Raises:
        GraphError: When written, if a value exceeds the range of ``dtype``.
    """
    shape = (sum(part.n_rows for part in parts), *parts[0].dims[1:])

    def tasks() -> Iterator[Task]:
        for part in (cast_tensor(part, dtype) for part in parts):
            for start, stop in part.row_ranges():
                yield lambda part=part, a=start, b=stop: (part.rows(a, b),)  # type: ignore[misc]

    return Weight((Blob(name, dtype, shape),), tuple(tasks()))


def integer_weight(name: str, parts: Sequence[Part], bits: int, scale_dtype: ir.DataType) -> Weight:
    """Quantized matrices stacked into the two inputs of one ``MatMulNBits``, ``<name>.ints`` and ``<name>.scales``."""
    n_rows = sum(ints.n_rows for ints, _ in parts)
    n_cols, n_blocks = parts[0][0].dims[1], parts[0][1].dims[1]
    block_bytes = n_cols // n_blocks * bits // 8
    scale_type = scale_dtype.numpy()

    def encode(ints: RowTensor, scales: RowTensor, start: int, stop: int) -> tuple[Array, ...]:
        # The integers first: reading them computes the scales of the same rows as well.
        packed = PACK[bits](ints.rows(start, stop))
        return packed, scales.rows_f32(start, stop).astype(scale_type)

    def tasks() -> Iterator[Task]:
        for ints, scales in parts:
            for start, stop in ints.row_ranges():
                yield lambda i=ints, s=scales, a=start, b=stop: encode(i, s, a, b)  # type: ignore[misc]

    blobs = (
        Blob(f"{name}{INTS}", ir.DataType.UINT8, (n_rows, n_blocks, block_bytes)),
        Blob(f"{name}.scales", scale_dtype, (n_rows, n_blocks)),
    )
    return Weight(blobs, tuple(tasks()))


def column_weight(name: str, parts: Sequence[Part]) -> Weight:
    """Matrices with one scale a row, side by side as ``MatMulInteger`` takes them: ``<name>.ints``, int8 ``[in, out]``.

    ``<name>.scales`` is float32 ``[out]``. Turning a matrix takes all of it in memory, a byte a weight.
    """
    n_rows, n_cols = sum(ints.n_rows for ints, _ in parts), parts[0][0].dims[1]

    def encode() -> tuple[Array, ...]:
        columns, found = np.empty((n_cols, n_rows), np.int8), np.empty(n_rows, np.float32)
        at = 0
        for ints, scales in parts:
            for start, stop in ints.row_ranges():
                here = slice(at, at + stop - start)
                columns[:, here] = ints.rows(start, stop).T
                found[here] = scales.rows_f32(start, stop)[:, 0]
                at = here.stop
        return columns, found

    blobs = (
        Blob(f"{name}{INTS}", ir.DataType.INT8, (n_cols, n_rows)),
        Blob(f"{name}.scales", ir.DataType.FLOAT, (n_rows,)),
    )
    return Weight(blobs, (encode,))


def pack_4(ints: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """int8 ``[n, k]`` in [-8, 7] -> uint8 ``[n, k / 2]``."""
    levels = ints.view(np.uint8) + np.uint8(8)
    return levels[:, 0::2] | levels[:, 1::2] << np.uint8(4)


def pack_8(ints: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """int8 ``[n, k]`` -> uint8 ``[n, k]``."""
    return ints.view(np.uint8) + np.uint8(128)


PACK: dict[int, Callable[[Array], Array]] = {4: pack_4, 8: pack_8}
"""Bits -> packing."""
