"""A thin hand on onnx_ir: nodes that name and type their outputs, constants that exist once, weights by reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.targets.onnx.weights import Weight

MICROSOFT = "com.microsoft"
OPSET = 21
"""Known to ONNX Runtime since 1.18 (its ``docs/Versioning.md``), which is older than Transformers.js 3."""
IR_VERSION = 10


class Emitter:
    """A graph under construction.

    Attributes:
        graph: What has been emitted.
        weights: What its initializers will hold, in the order they were asked for.
    """

    def __init__(self) -> None:
        self.graph = ir.Graph((), (), nodes=(), opset_imports={"": OPSET, MICROSOFT: 1}, name="llama")
        self.weights: list[Weight] = []
        self._shared: dict[str, ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.graph.outputs.append(value)

    def op(self, op: str, *inputs: ir.Value | None, name: str, dtype: ir.DataType, **attributes: Any) -> ir.Value:
        """Append a standard op with one output."""
        return self._append("", op, inputs, name, dtype, 1, attributes)[0]

    def microsoft(
        self, op: str, *inputs: ir.Value | None, name: str, dtype: ir.DataType, n_outputs: int = 1, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Append a contributed op of ONNX Runtime (``docs/ContribOperators.md``)."""
        return self._append(MICROSOFT, op, inputs, name, dtype, n_outputs, attributes)

    def _append(
        self,
        domain: str,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        n_outputs: int,
        attributes: dict[str, Any],
    ) -> Sequence[ir.Value]:
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=n_outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}.out" if index == 0 else f"{name}.out{index}"
            value.type = ir.TensorType(dtype)
        self.graph.append(node)
        return node.outputs

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value`` in another element type, computed once however often it is asked for."""
        if value.dtype == dtype:
            return value
        name = f"{value.name}.{dtype.name.lower()}"
        return self.shared(name, lambda: self.op("Cast", value, name=name, dtype=dtype, to=int(dtype)))

    @staticmethod
    def type_of(value: ir.Value) -> ir.DataType:
        """The element type, which every value emitted here has."""
        return ir.DataType(int(value.dtype or 0))

    def shared(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        """The value of that name, made when first asked for."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def constant(self, name: str, array: npt.NDArray[Any] | np.generic) -> ir.Value:
        """A small constant, kept inside the model file."""
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.asarray(array), name=name)
            self.graph.register_initializer(
                ir.Value(
                    name=name,
                    type=ir.TensorType(tensor.dtype),
                    shape=ir.Shape(np.shape(array)),
                    const_value=tensor,
                )
            )
        return self.graph.initializers[name]

    def weight(self, weight: Weight) -> list[ir.Value]:
        """The initializers of a weight; one that is there already, by its name, is shared."""
        if weight.blobs[0].name not in self.graph.initializers:
            self.weights.append(weight)
            for blob in weight.blobs:
                # Where its bytes lie is decided when all sizes are known (``layout.py``).
                tensor = ir.ExternalTensor("", 0, blob.nbytes, blob.dtype, shape=ir.Shape(blob.shape), name=blob.name)
                self.graph.register_initializer(
                    ir.Value(name=blob.name, type=ir.TensorType(blob.dtype), shape=tensor.shape, const_value=tensor)
                )
        return [self.graph.initializers[blob.name] for blob in weight.blobs]
