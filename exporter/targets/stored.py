"""What a plan tells of the weights that its artifact will hold, for targets that store the graph's own encodings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from exporter.ir.printer import dtype_text
from exporter.ir.weights import quantized_parts, quantized_weights
from exporter.targets.base import StoredTensor
from exporter.tensors import RowTensor


def stored_tensors(
    model: ir.Model, parameters: Mapping[str, RowTensor], nbytes: Mapping[str, int], half: ir.DataType
) -> Iterator[StoredTensor]:
    """The weights of a graph as they are stored.

    Args:
        model: The graph after its recipe.
        parameters: Canonical name -> decoded weight.
        nbytes: Canonical name -> bytes in the artifact, scales included.
        half: Which of the float types of 16 bits the target stores.
    """
    encodings = {str(value.name): encoding_text(value) for value in quantized_weights(model)}
    for name, tensor in parameters.items():
        width = {2: half, 4: ir.DataType.FLOAT}
        kind = encodings[name] if name in encodings else dtype_text(width.get(nbytes[name] // int(tensor.size)))
        yield StoredTensor(name, kind, tensor.dims, nbytes[name])


def encoding_text(value: ir.Value) -> str:
    """``i4 / 32``: integers, and how many share a scale."""
    ints, _, block = quantized_parts(value)
    return f"{dtype_text(ints.dtype)} / {'row' if block == ints.dims[1] else block}"
