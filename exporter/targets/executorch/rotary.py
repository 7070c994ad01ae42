"""The rotations: the table that the program holds, one row a position, and the order of what it rotates."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.ir import ops
from exporter.rope import half_from_interleaved, rotary_rows
from exporter.targets.executorch.weights import Weight, float_weight
from exporter.tensors import RowTensor, permute_rows

COS, SIN = "rope.cos", "rope.sin"


def rotary_tables(frequencies: RowTensor, context: int) -> tuple[Weight, Weight]:
    """``rope.cos`` and ``rope.sin``, float32 ``[context, head_dim / 2]``."""
    inv_freq = frequencies.rows_f32(0, frequencies.n_rows)

    def table(name: str, function: np.ufunc) -> Weight:
        shape = (context, len(inv_freq))
        rows = RowTensor(name, ir.DataType.FLOAT, shape, lambda a, b: rotary_rows(inv_freq, function, a, b))
        return float_weight(name, rows)

    return table(COS, np.cos), table(SIN, np.sin)


def in_halves(node: ir.Node, rows: RowTensor) -> RowTensor:
    """What a ``Linear`` multiplies with, or its scales, in the order in which a backend rotates.

    It cannot take every other column: the rows of a head that is rotated come in halves, and so do its columns.
    """
    ropes = [user for user, _ in node.outputs[0].uses() if user.op_type == "Rope"]
    if not ropes:
        return rows
    heads = ops.attribute(ropes[0], "n_heads")
    return permute_rows(rows, half_from_interleaved(heads, rows.n_rows // heads))
