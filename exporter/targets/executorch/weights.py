"""Weights as the bytes that XNNPACK and the embedding kernels read, a chunk of rows at a time.

XNNPACK packs weights again when it loads them; what it takes is plain: float32 and int8 row by row, and two 4-bit
integers a byte, the even column in the lower half, each 8 more than its value (``exporter/quant/packing.py``;
``backends/xnnpack/operators/node_visitor.py``, ``convert_to_qc4w``). The embedding kernel wants the even column in the
upper half (``kernels/quantized/cpu/embeddingxb.cpp``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from exporter.quant.apply import cast_tensor
from exporter.quant.packing import pack_4
from exporter.targets.executorch.subgraph import Constant
from exporter.targets.streaming import Task
from exporter.tensors import Array, RowTensor

INTS = ".ints"
"""Ends the name of integers, after the weight's own."""


@dataclass(frozen=True)
class Weight:
    """Blobs that are made together.

    Attributes:
        blobs: The first is large and streamed; the others are small against it.
        tasks: Called in order, or ahead on threads; each returns the next bytes of every blob.
    """

    blobs: tuple[Constant, ...]
    tasks: tuple[Task, ...]

    @property
    def nbytes(self) -> int:
        return sum(blob.nbytes for blob in self.blobs)


def float_weight(name: str, tensor: RowTensor, dtype: ir.DataType = ir.DataType.FLOAT) -> Weight:
    """A weight in a float type."""
    cast = cast_tensor(tensor, dtype)
    tasks = tuple((lambda a=a, b=b: (cast.rows(a, b),)) for a, b in cast.row_ranges())
    return Weight((Constant(name, int(dtype.itemsize * cast.size)),), tasks)


def array(name: str, values: Array) -> Weight:
    """A small array as it is."""
    return Weight((Constant(name, values.nbytes),), (lambda: (values,),))


def int8_groups(name: str, ints: RowTensor, scales: RowTensor) -> Weight:
    """``<name>.ints`` int8 ``[out, in]`` and ``<name>.scales`` float32 ``[out, in / group]``."""
    blobs = Constant(f"{name}{INTS}", int(ints.size)), Constant(f"{name}.scales", 4 * int(scales.size))
    return Weight(blobs, tuple(_tasks(ints, scales, lambda q: q, lambda s: s)))


def int4_groups(name: str, ints: RowTensor, scales: RowTensor) -> Weight:
    """``<name>.ints`` uint8 ``[out, in / 2]`` and ``<name>.scales`` bfloat16 ``[out, in / group]``."""
    blobs = Constant(f"{name}{INTS}", int(ints.size) // 2), Constant(f"{name}.scales", 2 * int(scales.size))
    return Weight(blobs, tuple(_tasks(ints, scales, pack_4, lambda s: s.astype(ml_dtypes.bfloat16))))


def int4_table(name: str, ints: RowTensor, scales: RowTensor, *, shared: bool) -> Weight:
    """``<name>.ints`` uint8 ``[rows, width / 2]`` and ``<name>.scales`` float16 ``[rows, width / group]``.

    A table that is a matrix of XNNPACK as well (``shared``) has ``<name>.bf16_scales`` besides. To XNNPACK its integers
    are a matrix whose columns are exchanged in pairs.
    """
    blobs = [Constant(f"{name}{INTS}", int(ints.size) // 2), Constant(f"{name}.scales", 2 * int(scales.size))]
    casts = [lambda s: s.astype(np.float16), lambda s: s.astype(ml_dtypes.bfloat16)][: 1 + shared]
    if shared:
        blobs.append(Constant(f"{name}.bf16_scales", 2 * int(scales.size)))
    return Weight(tuple(blobs), tuple(_tasks(ints, scales, lambda q: pack_4(swap_pairs(q)), *casts)))


def _tasks(
    ints: RowTensor, scales: RowTensor, pack: Callable[[Array], Array], *casts: Callable[[Array], Array]
) -> Iterator[Task]:
    def encode(start: int, stop: int) -> tuple[Array, ...]:
        # The integers first: reading them computes the scales of the same rows as well.
        packed, steps = pack(ints.rows(start, stop)), scales.rows_f32(start, stop)
        return packed, *(cast(steps) for cast in casts)

    for start, stop in ints.row_ranges():
        yield lambda a=start, b=stop: encode(a, b)  # type: ignore[misc]


def swap_pairs(rows: Array) -> Array:
    """``[n, k]`` with columns 0 and 1 exchanged, 2 and 3, and so on."""
    swapped: Array = rows.reshape(len(rows), -1, 2)[:, :, ::-1].reshape(rows.shape)
    return swapped
