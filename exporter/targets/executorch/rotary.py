"""The rotations: the table that the program holds, one row a position, and the order of what it rotates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.ir import ops
from exporter.rope import half_from_interleaved, rotary_rows
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


def row_order(node: ir.Node, n_rows: int) -> npt.NDArray[np.intp] | None:
    """How the rows of a projection are ordered; ``None`` where they stay.

    Backends cannot take every other column: the rows of a head that is rotated come in halves, and so do its columns.
    """
    for reader, _ in node.outputs[0].uses():
        if reader.op_type == "Rope":
            heads = ops.attribute(reader, "n_heads")
            return half_from_interleaved(heads, n_rows // heads)
        if reader.op_type == "LoRA":
            return row_order(reader, n_rows)
    return None
