"""The engine without a delegate: kernels that every published runtime has, called one by one.

They are made to be right rather than fast (executorch ``kernels/portable``, ``kernels/quantized``). A product with
bfloat16 weights rounds its activations and its result to bfloat16, because ``aten::linear`` multiplies one type; one
with 8-bit integers rounds nothing, because ``quantized_decomposed::mixed_linear`` widens the integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from exporter.errors import TargetError
from exporter.ir.weights import is_quantized, quantized_parts, row_tensor
from exporter.targets.executorch.engine import Ordered
from exporter.targets.executorch.program import CHAR, FLOAT, SCALAR_TYPE, Program, Tensor
from exporter.targets.executorch.subgraph import TOKENS, Shape
from exporter.targets.executorch.walk import Lowering, scales_shape
from exporter.targets.executorch.weights import float_weight, int8_groups

Operand = int | Tensor | Sequence[Tensor]


@dataclass
class Kernels:
    """A section: its values are tensors of the program. See :class:`exporter.targets.executorch.engine.Section`."""

    program: Program
    _tensors: list[Tensor] = field(default_factory=list)
    _casts: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def graph(self) -> Kernels:
        return self

    def brought(self, tensor: Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def exported(self, value: int) -> Tensor:
        return self._tensors[value]

    def shape(self, value: int) -> Shape:
        return self._tensors[value].shape

    def add(self, x: int, y: int) -> int:
        return self._binary("aten::add", x, y, self.program.integer(1))

    def subtract(self, x: int, y: int) -> int:
        return self._binary("aten::sub", x, y, self.program.integer(1))

    def multiply(self, x: int, y: int) -> int:
        return self._binary("aten::mul", x, y)

    def sigmoid(self, x: int) -> int:
        return self._called("aten::sigmoid", "out", [self._tensors[x]], self.shape(x))

    def rsqrt(self, x: int) -> int:
        return self._called("aten::rsqrt", "out", [self._tensors[x]], self.shape(x))

    def mean(self, x: int) -> int:
        axes, kept, dtype = self.program.integers([-1]), self.program.boolean(True), self.program.null()
        shape = (*self.shape(x)[:-1], 1)
        return self._called("aten::mean", "out", [self._tensors[x], axes, kept, dtype], shape)

    def reshape(self, x: int, shape: Shape) -> int:
        sizes = self.program.integers([-1 if size == TOKENS else size for size in shape])
        return self._called("aten::view_copy", "out", [self._tensors[x], sizes], shape)

    def columns(self, x: int, start: int, stop: int) -> int:
        axis, begin, end, step = (self.program.integer(n) for n in (-1, start, stop, 1))
        shape = (*self.shape(x)[:-1], stop - start)
        return self._called("aten::slice_copy", "Tensor_out", [self._tensors[x], axis, begin, end, step], shape)

    def joined(self, x: int, y: int) -> int:
        shape = (*self.shape(x)[:-1], self.shape(x)[-1] + self.shape(y)[-1])
        return self._called("aten::cat", "out", [[self._tensors[x], self._tensors[y]], self.program.integer(-1)], shape)

    def linear(self, x: int, matrix: Tensor) -> int:
        """``x [n, in] @ matrix[out, in].T``, computed in the type of the matrix."""
        if (key := (x, matrix.dtype)) not in self._casts:
            self._casts[key] = self.brought(self.program.cast(self._tensors[x], matrix.dtype))
        operands = self._tensors[self._casts[key]], matrix, self.program.null()
        product = self._called("aten::linear", "out", operands, (self.shape(x)[0], matrix.shape[0]), matrix.dtype)
        return self.brought(self.program.cast(self._tensors[product], FLOAT))

    def mixed_linear(self, x: int, ints: Tensor, scales: Tensor) -> int:
        """``x [n, in] @ (ints[out, in] * scales).T``, with a scale for each row, or for each group of one."""
        none = self.program.null()
        operands = self._tensors[x], ints, scales, none, none
        return self._called("quantized_decomposed::mixed_linear", "out", operands, (self.shape(x)[0], ints.shape[0]))

    def _binary(self, name: str, x: int, y: int, *rest: int) -> int:
        return self._called(name, "out", [self._tensors[x], self._tensors[y], *rest], self.shape(x))

    def _called(self, name: str, overload: str, operands: Sequence[Operand], shape: Shape, dtype: int = FLOAT) -> int:
        result = self.program.tensor(shape, dtype)
        self.program.kernel(name, overload, operands, result)
        return self.brought(result)


class Portable:
    """See :class:`exporter.targets.executorch.engine.Engine`."""

    def begin(self, program: Program) -> Kernels:
        return Kernels(program)

    def product(self, low: Lowering, weight: ir.Value, x: int, ordered: Ordered, *, head: bool) -> int:
        graph = low.section.graph
        assert isinstance(graph, Kernels)
        name = str(weight.name)
        shape = low.parameters[name].dims
        if not is_quantized(weight):
            rows = ordered(row_tensor(weight))
            (matrix,) = low.stored(float_weight(name, rows, rows.dtype), [shape], [SCALAR_TYPE[rows.dtype]])
            return graph.linear(x, matrix)
        ints, scales, block = quantized_parts(weight)
        if ints.dtype != ir.DataType.INT8:
            raise TargetError(
                f"no kernel of every runtime multiplies {name}",
                expected="float32, bfloat16, or 8 bits",
                found=f"{ints.dtype.name} in groups of {block}",
                hint="take --backend xnnpack",
            )
        encoded = int8_groups(name, ordered(ints), ordered(scales))
        return graph.mixed_linear(x, *low.stored(encoded, [shape, scales_shape(scales)], [CHAR, FLOAT]))
