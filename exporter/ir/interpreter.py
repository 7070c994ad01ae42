"""The torch interpreter of the graph: the reference that every runtime is compared with.

It walks the nodes, calls one small function per op, and forgets a value after its last use. Weights are
read when a node needs them, a slab of rows at a time, so that the reference of a model that does not fit into
memory still runs. Arithmetic is float32 whatever the weights are stored in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.build import config_of
from exporter.ir.weights import float_rows
from exporter.tensors import RowTensor, to_f32

SLAB_BYTES = 256 << 20
"""Float32 bytes of one weight that are in memory at once."""

Operand = torch.Tensor | RowTensor


def _torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.require(to_f32(array), requirements=["C", "W"]))


def _whole(weight: Operand) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else _torch(weight.rows(0, weight.n_rows))


def _embedding(node: ir.Node, tokens: torch.Tensor, weight: Operand) -> torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return F.embedding(tokens, weight)
    # Only the rows that occur are read: a 128k-row table is never widened for one prompt.
    distinct, index = torch.unique(tokens, return_inverse=True)
    table = torch.stack([_torch(weight.rows(int(t), int(t) + 1))[0] for t in distinct])
    return table[index]


def _rms_norm(node: ir.Node, x: torch.Tensor, weight: Operand) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], _whole(weight), ops.attribute(node, "epsilon"))


def _linear(node: ir.Node, x: torch.Tensor, weight: Operand) -> torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return F.linear(x, weight)
    bytes_per_row = 4 * weight.dims[1]
    step = max(1, SLAB_BYTES // bytes_per_row)
    parts = [
        F.linear(x, _torch(weight.rows(start, min(start + step, weight.n_rows))))
        for start in range(0, weight.n_rows, step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _rope(node: ir.Node, x: torch.Tensor, positions: torch.Tensor, inv_freq: Operand) -> torch.Tensor:
    batch, length, width = x.shape
    angle = positions.to(torch.float32)[:, :, None] * _whole(inv_freq)
    cos, sin = angle.cos()[:, :, None, :], angle.sin()[:, :, None, :]
    even, odd = x.view(batch, length, ops.attribute(node, "n_heads"), -1, 2).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).view(batch, length, width)


def _attention(
    node: ir.Node,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    past_key: torch.Tensor,
    past_value: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, new, _ = q.shape
    past = past_key.shape[2]

    def heads(x: torch.Tensor, n: int) -> torch.Tensor:
        return x.view(batch, new, n, -1).transpose(1, 2)

    n_kv_heads = ops.attribute(node, "n_kv_heads")
    key = torch.cat((past_key, heads(k, n_kv_heads)), dim=2)
    value = torch.cat((past_value, heads(v, n_kv_heads)), dim=2)
    keys = torch.arange(past + new, device=q.device)
    visible = keys[None, :] <= keys[past:, None]
    y = F.scaled_dot_product_attention(
        heads(q, ops.attribute(node, "n_heads")),
        key,
        value,
        attn_mask=visible,
        scale=ops.attribute(node, "scale"),
        enable_gqa=True,
    )
    return y.transpose(1, 2).reshape(batch, new, -1), key, value


def _swiglu(node: ir.Node, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def _hadamard(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    # Butterflies: sums and differences of neighbours, of pairs, of fours ...
    width = x.shape[-1]
    y, step = x, 1
    while step < width:
        first, second = y.view(*x.shape[:-1], -1, 2, step).unbind(-2)
        y = torch.stack((first + second, first - second), dim=-2)
        step *= 2
    return y.view(x.shape) / math.sqrt(width)


def _lora(node: ir.Node, y: torch.Tensor, x: torch.Tensor, a: Operand, b: Operand) -> torch.Tensor:
    scale: float = ops.attribute(node, "scale")
    return y + scale * _linear(node, _linear(node, x, a), b)


def _residual(node: ir.Node, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def _scatter_logits(node: ir.Node, x: torch.Tensor, tokens: RowTensor) -> torch.Tensor:
    full = torch.full((*x.shape[:-1], ops.attribute(node, "vocab_size")), -torch.inf)
    full[..., torch.from_numpy(tokens.rows(0, tokens.n_rows).copy())] = x
    return full


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "Embedding": _embedding,
    "RMSNorm": _rms_norm,
    "Linear": _linear,
    "Rope": _rope,
    "Attention": _attention,
    "SwiGLU": _swiglu,
    "Hadamard": _hadamard,
    "LoRA": _lora,
    "Residual": _residual,
    "ScatterLogits": _scatter_logits,
}
"""Op name -> implementation ``(node, *operands)``; activations arrive as tensors, weights as :class:`RowTensor`, or as
tensors where they are in memory already."""


Observer = Callable[[ir.Node, torch.Tensor], None]
"""Called with every node and its first output."""


Operands = Callable[[ir.Value], Any]
"""How a weight operand is read; :func:`exporter.ir.weights.float_rows` streams it from wherever it lies. What else it
gives must be what the implementations take."""


def walk(
    nodes: Sequence[ir.Node],
    values: dict[ir.Value, torch.Tensor],
    keep: Collection[ir.Value],
    *,
    weights: Operands = float_rows,
    implementations: Mapping[str, Callable[..., Any]] = IMPLEMENTATIONS,
    observe: Observer | None = None,
) -> None:
    """Run nodes in order; gradients flow where a weight or a value wants them.

    Args:
        nodes: Of a graph that ``verify`` accepts, in its order.
        values: What the nodes read besides weights; gains what they make and loses what none of the rest reads.
        keep: Values that stay nevertheless.
        weights: Where weights are read.
        implementations: What computes each op.
        observe: Sees the activations pass.
    """
    nodes = [node for node in nodes if node.op_type != "DequantizeLinear"]  # lazy: its consumer reads decoded rows
    remaining = Counter(value for node in nodes for value in node.inputs)

    def operand(value: ir.Value | None) -> Any:
        if value is None:
            raise GraphError("a node lacks an operand")
        return values[value] if value in values else weights(value)

    for node in nodes:
        result = implementations[node.op_type](node, *(operand(v) for v in node.inputs))
        results = result if isinstance(result, tuple) else (result,)
        values.update(zip(node.outputs, results, strict=True))
        if observe is not None:
            observe(node, results[0])
        for value in node.inputs:
            remaining[value] -= 1
            if value is not None and not remaining[value] and value not in keep:
                values.pop(value, None)


evaluate = torch.no_grad()(walk)
""":func:`walk` for who only wants the numbers."""


def run(
    model: ir.Model, inputs: Mapping[str, torch.Tensor], observe: Observer | None = None
) -> dict[str, torch.Tensor]:
    """Evaluate a graph.

    Args:
        model: A graph that ``verify`` accepts.
        inputs: Graph input name -> tensor; shapes and dtypes as :func:`exporter.ir.build.build` documents.
        observe: Sees the activations pass.

    Returns:
        Graph output name -> float32 tensor.
    """
    values = {value: inputs[str(value.name)] for value in model.graph.inputs}
    evaluate(list(model.graph), values, set(model.graph.outputs), observe=observe)
    return {str(v.name): values[v] for v in model.graph.outputs}


def empty_cache(model: ir.Model, batch: int = 1) -> dict[str, torch.Tensor]:
    """The cache inputs before the first token."""
    config = config_of(model)
    shape = (batch, config.n_kv_heads, 0, config.head_dim)
    names = [str(v.name) for v in model.graph.inputs if str(v.name).startswith("past_")]
    return {name: torch.zeros(shape) for name in names}


def logits(
    model: ir.Model, token_ids: list[int], observe: Observer | None = None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits at every position of one sequence, float32 ``[n_tokens, vocab_size]``, computed in one pass."""
    tokens = torch.tensor([token_ids], dtype=torch.int64)
    positions = torch.arange(len(token_ids), dtype=torch.int64)[None]
    result = run(model, {"tokens": tokens, "positions": positions, **empty_cache(model)}, observe)
    array: np.ndarray[Any, np.dtype[np.float32]] = result["logits"][0].numpy()
    return array
