"""Weights that refuse to be read where they are not finite.

A quantizer turns one NaN into a bad block without a word, so the check sits where weights enter the graph
and every consumer inherits it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.errors import CheckpointError
from exporter.tensors import Array, EncodedRows, ReadRows, RowTensor, dequantized

# Bit patterns of +infinity and the integer types of the same width (IEEE 754-2019). NaNs lie above infinity.
_INFINITY: dict[ir.DataType, tuple[Any, Any, int]] = {
    ir.DataType.FLOAT: (np.int32, np.uint32, 0x7F80_0000),
    ir.DataType.FLOAT16: (np.int16, np.uint16, 0x7C00),
    ir.DataType.BFLOAT16: (np.int16, np.uint16, 0x7F80),
}


def is_finite(rows: Array, dtype: ir.DataType) -> bool:
    """Whether no element is NaN or infinite.

    Read as integers, positive floats are ordered like signed and negative ones like unsigned numbers. Two
    maxima therefore decide, without a temporary, at memory speed.
    """
    signed, unsigned, infinity = _INFINITY[dtype]
    if not rows.size:
        return True
    sign_bit = 1 << (8 * np.dtype(unsigned).itemsize - 1)
    return bool(rows.view(signed).max() < infinity and rows.view(unsigned).max() < infinity + sign_bit)


def require_finite(tensor: RowTensor) -> RowTensor:
    """The same weight, with every read checked.

    Raises (on reading):
        CheckpointError: Naming the tensor, the row and the column of the first bad value.
    """

    def checked(read: ReadRows) -> ReadRows:
        def rows(start: int, stop: int) -> Array:
            array = read(start, stop)
            if not is_finite(array, tensor.dtype):
                bad = np.argwhere(~np.isfinite(array.astype(np.float32)))[0]
                index = [int(start + bad[0]), *(int(i) for i in bad[1:])]
                raise CheckpointError(
                    f"{tensor.name} holds a value that is not finite",
                    expected="finite weights",
                    found=f"{array[tuple(bad)]} at index {index}",
                    hint="the file is damaged or training diverged: try an earlier checkpoint",
                )
            return array

        return rows

    if tensor.quantized is not None:
        parts = tensor.quantized  # integers are finite
        return dequantized(str(tensor.name), dataclasses.replace(parts, scales=require_finite(parts.scales)))
    rows = checked(tensor.read)
    encoded = tensor.encoded
    if encoded is not None:
        stored = encoded

        def blocks(start: int, stop: int) -> Array:
            rows(start, stop)  # a block is finite if what it decodes to is
            return stored.read(start, stop)

        encoded = EncodedRows(stored.type_name, stored.row_nbytes, blocks)
    return RowTensor(str(tensor.name), tensor.dtype, tensor.dims, rows, encoded=encoded)
