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
from exporter.ir.spec import DOMAIN
from exporter.rope import inv_freq


def verify(model: ir.Model) -> None:
    """Check a graph.

    Raises:
        GraphError: At the first violated rule, naming the node or value.
    """
    graph = model.graph
    known = set(graph.inputs) | set(graph.initializers.values())
    names = {str(value.name) for value in known}
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
    rules = (_check_layers, _check_widths, _check_norms, _check_rope, _check_hadamard, _check_lora, _check_head)
    for rule in rules:
        rule(model)


def _check_signature(node: ir.Node) -> None:
    if (node.domain, node.op_type) not in ops.INFERENCE:
        raise GraphError(
            f"node {node.name} has an op outside the vocabulary",
            expected=", ".join(op for _, op in ops.INFERENCE),
            found=f"{node.domain or 'ai.onnx'}::{node.op_type}",
        )
    operands = ops.OPERANDS[node.domain, node.op_type]
    if len(node.inputs) != len(operands) or None in node.inputs:
        raise GraphError(
            f"node {node.name} ({node.op_type}): wrong operands",
            expected=len(operands),
            found=[_name(v) for v in node.inputs],
        )
    for value, operand in zip(node.inputs, operands, strict=True):
        if value is not None and (value.dtype not in operand.dtypes or len(ops.dims(value)) != operand.rank):
            raise GraphError(
                f"node {node.name} ({node.op_type}) cannot read {value.name}",
                expected=f"{operand.rank} axes of {' or '.join(d.name for d in operand.dtypes)}",
                found=(value.dtype, value.shape),
            )
    attributes = ops.attribute_names(node.domain, node.op_type)
    if set(node.attributes) != set(attributes):
        raise GraphError(
            f"node {node.name} ({node.op_type}): wrong attributes", expected=attributes, found=list(node.attributes)
        )


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


def _check_widths(model: ir.Model) -> None:
    """The embedding is as high and as wide as the configuration says, which fixes the residual stream."""
    config = config_of(model)
    for node in nodes_of(model, "Embedding"):
        table = None if node.inputs[1] is None else ops.dims(node.inputs[1])
        if table != (config.vocab_size, config.dim):
            raise GraphError(
                f"node {node.name}: the table differs from the configuration",
                expected=(config.vocab_size, config.dim),
                found=table,
            )


def _check_norms(model: ir.Model) -> None:
    """Every norm adds the configuration's epsilon, which is the one that llama.cpp will add."""
    expected = np.float32(config_of(model).norm_eps)
    for node in nodes_of(model, "RMSNorm"):
        found = ops.attribute(node, "epsilon")
        if np.float32(found) != expected:
            raise GraphError(
                f"node {node.name}: epsilon differs from the configuration", expected=expected, found=found
            )


def _check_rope(model: ir.Model) -> None:
    """The frequencies in the graph are those of the configuration, which is what llama.cpp will recompute."""
    expected = inv_freq(config_of(model))
    for node in nodes_of(model, "Rope"):
        value = node.inputs[2]
        tensor = None if value is None else value.const_value
        if tensor is None or not np.array_equal(tensor.numpy(), expected):
            raise GraphError(f"node {node.name}: frequencies differ from the configuration's rope_theta and scaling")


def _check_hadamard(model: ir.Model) -> None:
    """The hidden values of the feed-forward layers are transformed where the configuration says so."""
    expected = config_of(model).ffn_hadamard
    for node in nodes_of(model, "SwiGLU"):
        found = any(user.op_type == "Hadamard" for user, _ in node.outputs[0].uses())
        if found != expected:
            raise GraphError(
                f"node {node.name}: the configuration says otherwise about a Hadamard transform after it",
                expected=expected,
                found=found,
            )


def _check_lora(model: ir.Model) -> None:
    """Every adaptor has the configuration's rank and scale, and there are none where it knows of none."""
    config = config_of(model)
    expected = (config.lora_rank, np.float32(config.lora_scale))
    found = {
        (ops.dims(a)[0], np.float32(ops.attribute(node, "scale")))
        for node in nodes_of(model, "LoRA")
        if (a := node.inputs[2]) is not None
    }
    if found != ({expected} if config.lora_rank else set()):
        raise GraphError(
            "the adaptors differ from the configuration",
            expected=f"rank {expected[0]}, scale {expected[1]:g}",
            found=", ".join(f"rank {rank}, scale {scale:g}" for rank, scale in sorted(found)) or "none",
        )


def _check_head(model: ir.Model) -> None:
    """Every token has a logit, and those that a row of the head computes are the configuration's."""
    config = config_of(model)
    logits = model.graph.outputs[0]
    if ops.dims(logits)[-1] != config.vocab_size:
        raise GraphError(
            "the logits are not as many as the configuration's tokens",
            expected=config.vocab_size,
            found=ops.dims(logits)[-1],
        )
    node = logits.producer()
    tokens = node.inputs[1] if node is not None and node.op_type == "ScatterLogits" else None
    found = None if tokens is None or tokens.const_value is None else tuple(tokens.const_value.numpy().tolist())
    if found != config.kept_tokens:
        raise GraphError(
            "the head's rows are not those of the configuration's kept_tokens",
            expected=_tokens_text(config.kept_tokens),
            found=_tokens_text(found),
        )


def _tokens_text(tokens: tuple[int, ...] | None) -> str:
    return "all tokens" if tokens is None else f"{len(tokens)} tokens: {', '.join(map(str, tokens[:8]))} …"
