"""The table of rotations that the program holds: one row a position."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.targets.executorch.weights import Weight, float_weight
from exporter.tensors import Array, RowTensor

COS, SIN = "rope.cos", "rope.sin"


def rotary_rows(inv_freq: Array, function: np.ufunc, start: int, stop: int) -> Array:
    """Rows of a table, float32 ``[stop - start, head_dim / 2]``.

    The angle is a float32 product, as in the reference; its cosine is taken in float64 and rounded once.
    """
    angles = np.arange(start, stop, dtype=np.float32)[:, None] * inv_freq
    rows: Array = function(angles.astype(np.float64)).astype(np.float32)
    return rows


def rotary_tables(frequencies: RowTensor, context: int) -> tuple[Weight, Weight]:
    """``rope.cos`` and ``rope.sin``, float32 ``[context, head_dim / 2]``."""
    inv_freq = frequencies.rows_f32(0, frequencies.n_rows)

    def table(name: str, function: np.ufunc) -> Weight:
        shape = (context, len(inv_freq))
        rows = RowTensor(name, ir.DataType.FLOAT, shape, lambda a, b: rotary_rows(inv_freq, function, a, b))
        return float_weight(name, rows)

    return table(COS, np.cos), table(SIN, np.sin)
