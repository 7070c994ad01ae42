"""The graph cut in front of its linears, so that it runs a piece at a time with little in memory.

A stage begins where a new activation meets its first linear. Of a Llama that makes ``norm``, ``wq wk wv … attention``,
``wo … norm``, ``w1 w3 swiglu``, ``w2 … norm``, and so on to the head. What passes from stage to stage is the residual
stream and that activation.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Stage:
    """Consecutive nodes of a graph.

    Attributes:
        nodes: In graph order.
        source: The activation that the stage's linears multiply; ``None`` in the first stage, which has no linear.
        entry: Activations that it reads from earlier stages.
        exit: Activations that later stages read, of this or of earlier stages.
    """

    nodes: tuple[ir.Node, ...]
    source: ir.Value | None
    entry: tuple[ir.Value, ...]
    exit: tuple[ir.Value, ...]

    @property
    def linears(self) -> tuple[ir.Node, ...]:
        """The nodes that multiply ``source`` by a weight."""
        return tuple(node for node in self.nodes if node.op_type == "Linear")


def stages(model: ir.Model) -> list[Stage]:
    """Cut a graph; decoders of quantized weights belong to no stage, because weights are read through them."""
    pieces: list[tuple[ir.Value | None, list[ir.Node]]] = [(None, [])]
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            continue
        if node.op_type == "Linear" and node.inputs[0] is not pieces[-1][0]:
            pieces.append((node.inputs[0], []))
        pieces[-1][1].append(node)
    made_in = {value: i for i, (_, nodes) in enumerate(pieces) for node in nodes for value in node.outputs}
    last_read = {
        value: i for i, (_, nodes) in enumerate(pieces) for node in nodes for value in node.inputs if value in made_in
    }

    def crossing(boundary: int) -> tuple[ir.Value, ...]:
        """What is made before a stage and read in it or later."""
        return tuple(v for v, made in made_in.items() if made < boundary <= last_read.get(v, -1))

    return [Stage(tuple(nodes), source, crossing(i), crossing(i + 1)) for i, (source, nodes) in enumerate(pieces)]
