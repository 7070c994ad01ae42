"""The table of rotations that the program holds: one row a position."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.rope import rotary_rows
from exporter.targets.executorch.weights import Weight, float_weight
from exporter.tensors import RowTensor

COS, SIN = "rope.cos", "rope.sin"


def rotary_tables(frequencies: RowTensor, context: int) -> tuple[Weight, Weight]:
    """``rope.cos`` and ``rope.sin``, float32 ``[context, head_dim / 2]``."""
    inv_freq = frequencies.rows_f32(0, frequencies.n_rows)

    def table(name: str, function: np.ufunc) -> Weight:
        shape = (context, len(inv_freq))
        rows = RowTensor(name, ir.DataType.FLOAT, shape, lambda a, b: rotary_rows(inv_freq, function, a, b))
        return float_weight(name, rows)

    return table(COS, np.cos), table(SIN, np.sin)
