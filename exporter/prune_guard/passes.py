"""What the pruning passes share."""

from __future__ import annotations

import onnx_ir as ir

from exporter.errors import GraphError
from exporter.ir.weights import is_quantized, row_tensor
from exporter.tensors import RowTensor


def float_weight(node: ir.Node) -> tuple[ir.Value, RowTensor]:
    """The weight of a ``Linear`` as initializer and rows.

    Raises:
        GraphError: It is quantized: neurons are cut out of the weights that the integers are chosen for.
    """
    weight = node.inputs[1]
    if weight is None or is_quantized(weight):
        raise GraphError(
            f"{node.name} is quantized already",
            expected="float weights",
            found="integers",
            hint="prune first, then quantize",
        )
    return weight, row_tensor(weight)
