"""Typed constructors: the only place where nodes of the graph are spelled.

Each constructor appends one node to the graph and gives its outputs their type and shape by the op's
inference rule, the same rule that the verifier applies later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.errors import GraphError
from exporter.ir.spec import DOMAIN, vocabulary

Dim = int | str
TypedShape = tuple[ir.DataType, tuple[Dim, ...]]


@dataclass(frozen=True)
class Operand:
    """What an op accepts in one place: the number of axes and the element types."""

    rank: int
    dtypes: tuple[ir.DataType, ...]


def _activation(rank: int) -> Operand:
    return Operand(rank, (ir.DataType.FLOAT,))


def _weight(rank: int) -> Operand:
    return Operand(rank, (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16))


_INDICES = Operand(2, (ir.DataType.INT64,))
_INTEGERS = Operand(2, (ir.DataType.INT4, ir.DataType.INT8))

OPERANDS: dict[tuple[str, str], tuple[Operand, ...]] = {
    (DOMAIN, "Embedding"): (_INDICES, _weight(2)),
    (DOMAIN, "RMSNorm"): (_activation(3), _weight(1)),
    (DOMAIN, "Linear"): (_activation(3), _weight(2)),
    (DOMAIN, "Rope"): (_activation(3), _INDICES, _activation(1)),
    (DOMAIN, "Attention"): (*[_activation(3)] * 3, *[_activation(4)] * 2),
    (DOMAIN, "SwiGLU"): (_activation(3),) * 2,
    (DOMAIN, "Hadamard"): (_activation(3),),
    (DOMAIN, "LoRA"): (*[_activation(3)] * 2, *[_weight(2)] * 2),
    (DOMAIN, "Residual"): (_activation(3),) * 2,
    (DOMAIN, "ScatterLogits"): (_activation(3), Operand(1, (ir.DataType.INT64,))),
    ("", "DequantizeLinear"): (_INTEGERS, _activation(2)),
}
"""(domain, op) -> its operands, all of them required. A ``DequantizeLinear`` of ours has no zero point."""


def attribute_names(domain: str, op: str) -> tuple[str, ...]:
    """The attributes of an op, all of them required."""
    return vocabulary()[op].attributes if domain == DOMAIN else ("axis", "block_size")


def dims(value: ir.Value) -> tuple[Dim, ...]:
    """The shape of a value; symbolic dimensions as strings."""
    if value.shape is None:
        raise GraphError(f"value {value.name} has no shape")
    return tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)


def attribute(node: ir.Node, name: str) -> Any:
    """The value of a required attribute."""
    if name not in node.attributes:
        raise GraphError(f"node {node.name} ({node.op_type}) lacks the attribute {name}")
    return node.attributes[name].value


def _expect(node: ir.Node, ok: bool, what: str, expected: object, found: object) -> None:
    if not ok:
        raise GraphError(f"node {node.name} ({node.op_type}): wrong {what}", expected=expected, found=found)


def _float(shape: Sequence[Dim]) -> list[TypedShape]:
    return [(ir.DataType.FLOAT, tuple(shape))]


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise GraphError(f"node {node.name} ({node.op_type}): input {index} is missing")
    return value


def _infer_embedding(node: ir.Node) -> list[TypedShape]:
    tokens, weight = dims(_operand(node, 0)), dims(_operand(node, 1))
    return _float((*tokens, weight[1]))


def _infer_rms_norm(node: ir.Node) -> list[TypedShape]:
    x, weight = dims(_operand(node, 0)), dims(_operand(node, 1))
    _expect(node, weight == x[-1:], "weight shape", list(x[-1:]), list(weight))
    return _float(x)


def _infer_linear(node: ir.Node) -> list[TypedShape]:
    x, weight = dims(_operand(node, 0)), dims(_operand(node, 1))
    _expect(node, weight[1] == x[-1], "weight shape", f"[out, {x[-1]}]", list(weight))
    return _float((*x[:-1], weight[0]))


def _infer_rope(node: ir.Node) -> list[TypedShape]:
    x, inv_freq = dims(_operand(node, 0)), dims(_operand(node, 2))
    width = attribute(node, "n_heads") * 2 * int(inv_freq[0])
    _expect(node, x[-1] == width, "width", f"n_heads * head_dim = {width}", x[-1])
    return _float(x)


def _infer_attention(node: ir.Node) -> list[TypedShape]:
    q, k, v, past = (dims(_operand(node, i)) for i in range(4))
    n_heads, n_kv_heads = attribute(node, "n_heads"), attribute(node, "n_kv_heads")
    head_dim = int(past[3])
    _expect(node, n_heads % n_kv_heads == 0, "heads", f"a multiple of n_kv_heads = {n_kv_heads}", n_heads)
    _expect(node, q[-1] == n_heads * head_dim, "query width", n_heads * head_dim, q[-1])
    _expect(node, k[-1] == v[-1] == n_kv_heads * head_dim, "key/value width", n_kv_heads * head_dim, (k[-1], v[-1]))
    present = (ir.DataType.FLOAT, (past[0], n_kv_heads, "total_len", head_dim))
    return [(ir.DataType.FLOAT, q), present, present]


def _infer_same(node: ir.Node) -> list[TypedShape]:
    x, y = dims(_operand(node, 0)), dims(_operand(node, 1))
    _expect(node, x == y, "shapes", "two equal shapes", (x, y))
    return _float(x)


def _infer_hadamard(node: ir.Node) -> list[TypedShape]:
    x = dims(_operand(node, 0))
    _expect(node, int(x[-1]).bit_count() == 1, "width", "a power of two", x[-1])
    return _float(x)


def _infer_lora(node: ir.Node) -> list[TypedShape]:
    y, x, a, b = (dims(_operand(node, i)) for i in range(4))
    _expect(node, x[:-1] == y[:-1], "input", f"{list(y[:-1])} and a width", list(x))
    _expect(node, a[1] == x[-1], "shape of A", f"[rank, {x[-1]}]", list(a))
    _expect(node, b == (y[-1], a[0]), "shape of B", [y[-1], a[0]], list(b))
    return _float(y)


def _infer_scatter_logits(node: ir.Node) -> list[TypedShape]:
    x, tokens = dims(_operand(node, 0)), dims(_operand(node, 1))
    _expect(node, x[-1:] == tokens, "logits", f"one for each of {tokens[0]} tokens", x[-1])
    return _float((*x[:-1], attribute(node, "vocab_size")))


def _infer_dequantize(node: ir.Node) -> list[TypedShape]:
    ints, scales = dims(_operand(node, 0)), dims(_operand(node, 1))
    block = attribute(node, "block_size")
    want = (ints[0], int(ints[1]) // block)
    _expect(node, attribute(node, "axis") == 1, "axis", 1, attribute(node, "axis"))
    _expect(node, int(ints[1]) % block == 0, "columns", f"a multiple of block_size = {block}", ints[1])
    _expect(node, scales == want, "scales shape", list(want), list(scales))
    return _float(ints)


INFERENCE: dict[tuple[str, str], Callable[[ir.Node], list[TypedShape]]] = {
    (DOMAIN, "Embedding"): _infer_embedding,
    (DOMAIN, "RMSNorm"): _infer_rms_norm,
    (DOMAIN, "Linear"): _infer_linear,
    (DOMAIN, "Rope"): _infer_rope,
    (DOMAIN, "Attention"): _infer_attention,
    (DOMAIN, "SwiGLU"): _infer_same,
    (DOMAIN, "Hadamard"): _infer_hadamard,
    (DOMAIN, "LoRA"): _infer_lora,
    (DOMAIN, "Residual"): _infer_same,
    (DOMAIN, "ScatterLogits"): _infer_scatter_logits,
    ("", "DequantizeLinear"): _infer_dequantize,
}
"""(domain, op) -> rule that checks a node's operands and returns the type and shape of each output."""


def is_head(node: ir.Node) -> bool:
    """Whether a node computes the logits from the last hidden state."""
    made = node.outputs[0]
    return node.op_type == "Linear" and (
        made.is_graph_output() or any(user.op_type == "ScatterLogits" for user, _ in made.uses())
    )


def refresh(node: ir.Node) -> None:
    """Give a node's outputs the types that follow from its operands, after a pass has changed those."""
    for value, (dtype, shape) in zip(node.outputs, INFERENCE[node.domain, node.op_type](node), strict=True):
        value.type = ir.TensorType(dtype)
        value.shape = ir.Shape(shape)


def _append(
    graph: ir.Graph,
    domain: str,
    op: str,
    inputs: Sequence[ir.Value],
    name: str,
    before: ir.Node | None = None,
    **attributes: int | float,
) -> Sequence[ir.Value]:
    n_outputs = len(vocabulary()[op].outputs) if domain == DOMAIN else 1
    # An ONNX attribute is float32: rounding it here keeps a graph equal to itself after saving and loading.
    attrs = {
        key: ir.AttrInt64(key, x) if isinstance(x, int) else ir.AttrFloat32(key, float(np.float32(x)))
        for key, x in attributes.items()
    }
    node = ir.Node(domain, op, inputs, attrs, num_outputs=n_outputs, name=name)
    for index, value in enumerate(node.outputs):
        value.name = name if index == 0 else f"{name}.{index}"
    refresh(node)
    if before is None:
        graph.append(node)
    else:
        graph.insert_before(before, node)
    return node.outputs


def embedding(graph: ir.Graph, tokens: ir.Value, weight: ir.Value, *, name: str) -> ir.Value:
    """Rows of ``weight [V, D]`` for ``tokens [B, S]`` -> float32 ``[B, S, D]``."""
    return _append(graph, DOMAIN, "Embedding", (tokens, weight), name)[0]


def rms_norm(graph: ir.Graph, x: ir.Value, weight: ir.Value, *, epsilon: float, name: str) -> ir.Value:
    """``x / sqrt(mean(x^2) + epsilon) * weight`` over the last axis."""
    return _append(graph, DOMAIN, "RMSNorm", (x, weight), name, epsilon=float(epsilon))[0]


def linear(graph: ir.Graph, x: ir.Value, weight: ir.Value, *, name: str) -> ir.Value:
    """``x @ weight.T`` for ``weight [out, in]``."""
    return _append(graph, DOMAIN, "Linear", (x, weight), name)[0]


def rope(graph: ir.Graph, x: ir.Value, positions: ir.Value, inv_freq: ir.Value, *, n_heads: int, name: str) -> ir.Value:
    """Rotate interleaved pairs of each head by ``positions * inv_freq`` (radians)."""
    return _append(graph, DOMAIN, "Rope", (x, positions, inv_freq), name, n_heads=n_heads)[0]


def attention(
    graph: ir.Graph,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    past_key: ir.Value,
    past_value: ir.Value,
    *,
    n_heads: int,
    n_kv_heads: int,
    scale: float,
    name: str,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Causal grouped-query attention; returns the output and the extended key and value caches."""
    operands = (q, k, v, past_key, past_value)
    y, key, value = _append(
        graph, DOMAIN, "Attention", operands, name, n_heads=n_heads, n_kv_heads=n_kv_heads, scale=float(scale)
    )
    return y, key, value


def swiglu(graph: ir.Graph, gate: ir.Value, up: ir.Value, *, name: str) -> ir.Value:
    """``silu(gate) * up``."""
    return _append(graph, DOMAIN, "SwiGLU", (gate, up), name)[0]


def hadamard(graph: ir.Graph, x: ir.Value, *, name: str) -> ir.Value:
    """The orthonormal Walsh-Hadamard transform of the last axis."""
    return _append(graph, DOMAIN, "Hadamard", (x,), name)[0]


def lora(graph: ir.Graph, y: ir.Value, x: ir.Value, a: ir.Value, b: ir.Value, *, scale: float, name: str) -> ir.Value:
    """``y + scale * x @ a.T @ b.T``: a low-rank adaptor beside the projection that made ``y`` of ``x``."""
    return _append(graph, DOMAIN, "LoRA", (y, x, a, b), name, scale=float(scale))[0]


def residual(graph: ir.Graph, x: ir.Value, y: ir.Value, *, name: str) -> ir.Value:
    """``x + y``."""
    return _append(graph, DOMAIN, "Residual", (x, y), name)[0]


def scatter_logits(graph: ir.Graph, x: ir.Value, tokens: ir.Value, *, vocab_size: int, name: str) -> ir.Value:
    """``x [B, S, K]`` at the columns ``tokens [K]`` of ``[B, S, vocab_size]``, minus infinity elsewhere."""
    return _append(graph, DOMAIN, "ScatterLogits", (x, tokens), name, vocab_size=vocab_size)[0]


def dequantize(
    graph: ir.Graph, ints: ir.Value, scales: ir.Value, *, block_size: int, name: str, before: ir.Node | None = None
) -> ir.Value:
    """ONNX's own blocked ``DequantizeLinear``: ``ints [out, in] * scales [out, in / block_size]``.

    In a graph that has consumers already, the node goes in front of ``before``, the first of them.
    """
    return _append(graph, "", "DequantizeLinear", (ints, scales), name, before=before, axis=1, block_size=block_size)[0]


def initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a weight under its own name, or return the value already registered (a tied weight)."""
    name = str(tensor.name)
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(value)
    return value
