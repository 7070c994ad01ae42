"""The engine XNNPACK: one delegate between two attentions, and which of its matrix products a weight needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from exporter.errors import TargetError
from exporter.ir.weights import is_quantized, quantized_parts, row_tensor
from exporter.targets.executorch.engine import Ordered
from exporter.targets.executorch.program import Call, Program, Tensor
from exporter.targets.executorch.subgraph import Subgraph
from exporter.targets.executorch.walk import GROUP_MULTIPLE, Lowering, is_table
from exporter.targets.executorch.weights import float_weight, int4_groups, int4_table, int8_groups


@dataclass(frozen=True)
class Delegation:
    """A section: one delegate. See :class:`exporter.targets.executorch.engine.Section`."""

    program: Program
    call: Call
    graph: Subgraph
    _inputs: dict[int, int] = field(default_factory=dict)

    def brought(self, tensor: Tensor) -> int:
        if tensor.value not in self._inputs:
            value = self._inputs[tensor.value] = self.graph.input(tensor.shape)
            self.call.arguments[value] = tensor
        return self._inputs[tensor.value]

    def exported(self, value: int) -> Tensor:
        if value not in self.call.arguments:
            self.call.arguments[value] = self.program.tensor(self.graph.shape(value))
            self.graph.outputs.append(value)
        return self.call.arguments[value]


@dataclass(frozen=True)
class Xnnpack:
    """See :class:`exporter.targets.executorch.engine.Engine`.

    Attributes:
        rounds: Whether activations are rounded to 8 bits where 8-bit matrices multiply many tokens.
    """

    rounds: bool = True

    def begin(self, program: Program) -> Delegation:
        graph = Subgraph(program.max_tokens)
        return Delegation(program, program.delegate(graph), graph)

    def product(self, low: Lowering, weight: ir.Value, x: int, ordered: Ordered, *, head: bool) -> int:
        graph = low.section.graph
        assert isinstance(graph, Subgraph)
        name = str(weight.name)
        shape = low.parameters[name].dims
        if not is_quantized(weight):
            (matrix,) = low.weight(float_weight(name, ordered(row_tensor(weight))))
            return graph.linear(x, graph.constant(matrix, shape))
        ints, scales, block = quantized_parts(weight)
        parts = ordered(ints), ordered(scales)
        if ints.dtype == ir.DataType.INT8 and block == shape[1]:
            filter_ = graph.int8_rows(low.weight(int8_groups(name, *parts)), shape)
            # One token's head waits for its weights: rounding what they multiply would gain nothing.
            x = graph.rounded(x) if self.rounds and not head else x
        elif ints.dtype == ir.DataType.INT4 and block % GROUP_MULTIPLE == 0:
            if is_table(weight):
                packed, _, steps = low.weight(int4_table(name, *parts, shared=True))
                x = _swapped_pairs(graph, x)
            else:
                packed, steps = low.weight(int4_groups(name, *parts))
            filter_ = graph.int4_groups((packed, steps), shape, block)
            x = graph.rounded(x)  # XNNPACK has no other kernel for these
        else:
            raise TargetError(
                f"XNNPACK has no kernel for {name}",
                expected=f"8 bits with a scale a row, or 4 bits in groups of a multiple of {GROUP_MULTIPLE}",
                found=f"{ints.dtype.name} in groups of {block}",
                hint="export to gguf or onnx instead",
            )
        return graph.linear(x, filter_)


def _swapped_pairs(graph: Subgraph, x: int) -> int:
    """``x [n, width]`` as a matrix wants it whose integers are the embedding's: its columns are exchanged in pairs.

    The two kernels read the halves of a byte in opposite order. The head multiplies one token, so that moving its input
    costs nothing against storing the largest matrix twice.
    """
    n, width = graph.shape(x)
    pairs = graph.reshape(x, (n, width // 2, 2))
    swapped = graph.joined(graph.columns(pairs, 1, 2), graph.columns(pairs, 0, 1))
    return graph.reshape(swapped, (n, width))
