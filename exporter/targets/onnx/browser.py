"""Whether a browser can hold a variant and has its operators: asked before anything is written.

WebAssembly addresses 4 GiB. Measured in Chromium with onnxruntime-web 1.31 (``docs/onnx.md``): the heap grows to the
stored weights, and beside them to what the kernels unpack: ``MatMulNBits`` its largest matrix, in every step; ``Gemm``
a copy, in its own order, of a matrix that another operator reads as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from exporter.errors import TargetError
from exporter.targets.onnx.emit import MICROSOFT
from exporter.targets.onnx.lower import Lowered

HEAP_BYTES = 1 << 32

OPERATORS = frozenset({
    *((MICROSOFT, op) for op in ("GroupQueryAttention", "MatMulNBits", "SkipSimplifiedLayerNormalization")),
    *(("", op) for op in (
        "Abs", "Add", "Cast", "Concat", "DequantizeLinear", "Div", "Expand", "Gather", "Gemm", "MatMulInteger", "Max",
        "Mod", "Mul", "Neg", "QuantizeLinear", "Range", "ReduceMax", "ReduceSum", "Reshape", "ScatterElements", "Shape",
        "Sigmoid", "SimplifiedLayerNormalization", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    )),
})  # fmt: skip
"""(domain, op) that ``tests/javascript`` has run in onnxruntime-web. ``GatherBlockQuantized``, which other exporters
use for the embedding, is not there."""


def heap_bytes(lowered: Lowered) -> int:
    """What the variant takes of WebAssembly's memory, the cache and activations not counted.

    Variants in float16 are for WebGPU, which keeps the weights elsewhere: only loading them takes memory.
    """
    stored = sum(weight.nbytes for weight in lowered.weights)
    if lowered.activations == ir.DataType.FLOAT16:
        return stored
    return stored + max(_unpacked(lowered.model), default=0)


def _unpacked(model: ir.Model) -> Iterator[int]:
    """Bytes of each float32 matrix that a kernel makes for itself."""
    for node in model.graph:
        matrix = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type == "MatMulNBits":
            yield 4 * node.attributes["N"].as_int() * node.attributes["K"].as_int()
        elif node.op_type == "Gemm" and matrix is not None and matrix.const_value and len(list(matrix.uses())) > 1:
            yield int(matrix.const_value.nbytes)


def require_operators(lowered: Lowered) -> None:
    """Refuse a graph with an operator that onnxruntime-web lacks.

    Raises:
        TargetError: There is one.
    """
    for node in lowered.model.graph:
        if (node.domain, node.op_type) not in OPERATORS:
            raise TargetError(
                f"node {node.name} has an operator that browsers lack",
                expected="one that onnxruntime-web was seen to run",
                found=f"{node.domain or 'ai.onnx'}::{node.op_type}",
                hint="another variant may do without it: --quant f32",
            )
