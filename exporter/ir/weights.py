"""How consumers read the weights of a graph: by rows, whether they are stored, lazy or quantized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.build import ROPE_INV_FREQ
from exporter.tensors import Array, QuantizedRows, RowTensor, dequantized


def row_tensor(value: ir.Value) -> RowTensor:
    """The tensor behind an initializer as a stream of rows (a loaded graph holds memory-mapped ones)."""
    tensor = value.const_value
    if tensor is None:
        raise GraphError(f"value {value.name} is not a weight")
    if isinstance(tensor, RowTensor):
        return tensor

    def read(start: int, stop: int) -> Array:
        rows: Array = tensor.numpy()[start:stop]
        return rows.astype(np.int8) if tensor.dtype == ir.DataType.INT4 else rows

    return RowTensor(str(value.name), tensor.dtype, [int(d) for d in tensor.shape.numpy()], read)


def initializers(model: ir.Model) -> dict[str, RowTensor]:
    """Name -> weight of a graph that is not quantized; rotary frequencies are no weight."""
    return {name: row_tensor(value) for name, value in model.graph.initializers.items() if name != ROPE_INV_FREQ}


def is_quantized(value: ir.Value) -> bool:
    """Whether a weight operand is the output of a ``DequantizeLinear``."""
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear"


def quantized_parts(value: ir.Value) -> tuple[RowTensor, RowTensor, int]:
    """Integers ``[out, in]``, float32 scales ``[out, in / block_size]`` and the block size of a quantized weight."""
    node = value.producer()
    if node is None or not is_quantized(value) or node.inputs[0] is None or node.inputs[1] is None:
        raise GraphError(f"value {value.name} is not a quantized weight")
    return row_tensor(node.inputs[0]), row_tensor(node.inputs[1]), int(ops.attribute(node, "block_size"))


def float_rows(value: ir.Value) -> RowTensor:
    """A weight operand as float rows: an initializer as stored, a quantized one as ``ints * scales`` in float32."""
    if not is_quantized(value):
        return row_tensor(value)
    return dequantized(str(value.name), QuantizedRows(*quantized_parts(value)))


def quantized_weights(model: ir.Model) -> list[ir.Value]:
    """The quantized weight operands of a graph, each once, in graph order."""
    return [node.outputs[0] for node in model.graph if node.op_type == "DequantizeLinear"]
