"""The rules every graph obeys, checked before and after each pass.

A pass that leaves a dangling weight, a stale shape or a configuration that no longer describes the graph is
stopped here, not on the phone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.build import config_of
from exporter.ir.spec import DOMAIN, vocabulary
from exporter.rope import inv_freq


def verify(model: ir.Model) -> None:
    """Check a graph.

    Raises:
        GraphError: At the first violated rule, naming the node or value.
    """
    graph = model.graph
    known = set(graph.inputs) | set(graph.initializers.values())
    names: set[str] = set()
    for node in graph:
        _check_signature(node)
        for value in node.inputs:
            if value is not None and value not in known:
                raise GraphError(
                    f"node {node.name} reads {value.name} before it is made", hint="sort the graph topologically"
                )
        inferred = ops.INFERENCE[node.domain, node.op_type](node)
        for value, (dtype, shape) in zip(node.outputs, inferred, strict=True):
            if value.dtype != dtype or ops.dims(value) != shape:
                raise GraphError(
                    f"value {value.name} has a stale type",
                    expected=(dtype.name, shape),
                    found=(value.dtype, value.shape),
                )
            known.add(value)
        for value in node.outputs:
            if not value.name or value.name in names:
                raise GraphError(f"node {node.name}: output name {value.name!r} is empty or used twice")
            names.add(value.name)
    for value in graph.outputs:
        if value not in known:
            raise GraphError(f"graph output {value.name} is not produced by any node")
    for weight in graph.initializers.values():
        _check_initializer(weight)
    for rule in (_check_layers, _check_rope):
        rule(model)


def _check_signature(node: ir.Node) -> None:
    if (node.domain, node.op_type) not in ops.INFERENCE:
        raise GraphError(
            f"node {node.name} has an op outside the vocabulary",
            expected=", ".join(op for _, op in ops.INFERENCE),
            found=f"{node.domain or 'ai.onnx'}::{node.op_type}",
        )
    if node.domain != DOMAIN:
        return
    spec = vocabulary()[node.op_type]
    if len(node.inputs) != len(spec.inputs) or None in node.inputs:
        raise GraphError(
            f"node {node.name}: wrong operands", expected=spec.inputs, found=[_name(v) for v in node.inputs]
        )
    if set(node.attributes) != set(spec.attributes):
        raise GraphError(f"node {node.name}: wrong attributes", expected=spec.attributes, found=list(node.attributes))


def _name(value: ir.Value | None) -> str | None:
    return None if value is None else value.name


def _check_initializer(weight: ir.Value) -> None:
    tensor = weight.const_value
    if not list(weight.uses()):
        raise GraphError(f"weight {weight.name} is used by no node", hint="remove it or connect it")
    if tensor is None or tensor.dtype != weight.dtype or tuple(tensor.shape.numpy()) != ops.dims(weight):
        raise GraphError(
            f"weight {weight.name} and its tensor disagree",
            expected=(weight.dtype, weight.shape),
            found=None if tensor is None else (tensor.dtype, tensor.shape),
        )


def nodes_of(model: ir.Model, op: str) -> Iterator[ir.Node]:
    """The nodes of one op of the vocabulary, in graph order."""
    return (node for node in model.graph if node.domain == DOMAIN and node.op_type == op)


def _check_layers(model: ir.Model) -> None:
    """The configuration counts the same layers and heads as the graph."""
    config = config_of(model)
    attention = list(nodes_of(model, "Attention"))
    if len(attention) != config.n_layers:
        raise GraphError("the configuration miscounts the layers", expected=len(attention), found=config.n_layers)
    for node in attention:
        heads = (ops.attribute(node, "n_heads"), ops.attribute(node, "n_kv_heads"))
        if heads != (config.n_heads, config.n_kv_heads):
            raise GraphError(
                f"node {node.name}: heads differ from the configuration",
                expected=(config.n_heads, config.n_kv_heads),
                found=heads,
            )


def _check_rope(model: ir.Model) -> None:
    """The frequencies in the graph are those of the configuration, which is what llama.cpp will recompute."""
    expected = inv_freq(config_of(model))
    for node in nodes_of(model, "Rope"):
        value = node.inputs[2]
        tensor = None if value is None else value.const_value
        if tensor is None or not np.array_equal(tensor.numpy(), expected):
            raise GraphError(f"node {node.name}: frequencies differ from the configuration's rope_theta and scaling")
