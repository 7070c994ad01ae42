"""Graph -> an ExecuTorch program, op by op, without ``torch.export``.

What is between two attentions is an engine's: one XNNPACK delegate, or calls of kernels. Outside remain the embedding,
the rows of the rotary table, the cache and the attention itself, for which the LLM runner links kernels of its own
(``llama::update_cache``, ``llama::custom_sdpa``), as it does for SpinQuant's ``llama::fast_hadamard_transform``.
``torch.export`` and XNNPACK's partitioner make twelve delegates a layer of the same model, and take a minute for two
layers (measured with ExecuTorch 1.4.0).

Activations are ``[tokens, width]`` everywhere but in the attention.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import TargetError
from exporter.ir import ops
from exporter.ir.build import KEPT_TOKENS, config_of
from exporter.ir.verify import verify
from exporter.ir.weights import float_rows, is_quantized, quantized_parts, row_tensor
from exporter.targets.executorch.engine import Engine
from exporter.targets.executorch.program import BYTE, CHAR, FLOAT, HALF, LONG, SCALAR_TYPE, Program, Tensor
from exporter.targets.executorch.rotary import rotary_tables, row_order
from exporter.targets.executorch.subgraph import TOKENS
from exporter.targets.executorch.walk import (
    EPSILON,
    GROUP_MULTIPLE,
    HINT,
    LORA_SCALE,
    NO_LOGITS,
    Lowered,
    Lowering,
    operand,
    scales_shape,
)
from exporter.targets.executorch.weights import array, float_weight, int4_table, int8_groups
from exporter.tensors import RowTensor, from_array, permute_rows

MAX_TOKENS = 512
"""Of one call; the runner cuts longer prompts. What its tensors take is planned for so many, whether they come or not,
and nothing is gained by more (``python -m benchmarks.executorch_prompt``)."""


def _readers(node: ir.Node) -> list[ir.Node]:
    return [user for user, _ in node.outputs[0].uses()]


def _product(low: Lowering, weight: ir.Value, x: int, order: npt.NDArray[np.intp] | None, *, head: bool = False) -> int:
    """``x`` times a transposed weight whose rows come in another order."""
    low.parameters.setdefault(str(weight.name), float_rows(weight))

    def ordered(rows: RowTensor) -> RowTensor:
        return rows if order is None else permute_rows(rows, order)

    return low.engine.product(low, weight, x, ordered, head=head)


def _is_matrix(table: ir.Value) -> bool:
    """Whether an embedding is tied to a head."""
    return any(user.op_type == "Linear" for user, _ in table.uses())


def _embedding(low: Lowering, node: ir.Node) -> None:
    table = operand(node, 1)
    name = str(table.name)
    rows = low.parameters.setdefault(name, float_rows(table))
    program, (n_rows, width) = low.program, rows.dims
    found = program.tensor((1, TOKENS, width))
    if is_quantized(table):
        ints, scales, block = quantized_parts(table)
        if ints.dtype == ir.DataType.INT8:
            kernel = "embedding_byte"
            shapes = [(n_rows, width), scales_shape(scales)]
            stored = low.stored(int8_groups(name, ints, scales), shapes, [CHAR, FLOAT])
        elif block % GROUP_MULTIPLE == 0:
            kernel = "embedding_4bit"
            shapes = [(n_rows, width // 2), (n_rows, width // block)]
            stored = low.stored(int4_table(name, ints, scales, shared=_is_matrix(table)), shapes, [BYTE, HALF])
        else:
            raise TargetError(
                f"ExecuTorch has no kernel for {name}",
                expected=f"8 bits, or 4 bits in groups of a multiple of {GROUP_MULTIPLE}",
                found=f"{ints.dtype.name} in groups of {block}",
                hint=HINT,
            )
        # The kernels know the range of their integers and do not look at what they are told of it.
        none, unused, dtype = program.null(), program.integer(0), program.integer(FLOAT)
        program.kernel(
            f"quantized_decomposed::{kernel}", "dtype_out",
            [*stored, none, unused, unused, low.tokens, dtype], found,
        )  # fmt: skip
    else:
        dtype = SCALAR_TYPE[rows.dtype]
        (weight,) = low.stored(float_weight(name, row_tensor(table), rows.dtype), [(n_rows, width)], [dtype])
        padding, no = program.integer(-1), program.boolean(False)
        looked_up = program.tensor(found.shape, dtype)
        program.kernel("aten::embedding", "out", [weight, low.tokens, padding, no, no], looked_up)
        found = program.cast(looked_up, FLOAT)
    low.begin()
    low.define(node.outputs[0], low.graph.reshape(low.brought(found), (TOKENS, width)))


def _rms_norm(low: Lowering, node: ir.Node) -> None:
    source, weight = operand(node, 0), operand(node, 1)
    gain = low.parameters.setdefault(str(weight.name), float_rows(weight))
    width = gain.n_rows
    if any(ops.is_head(reader) for reader in _readers(node)):
        # Only the last token's logits are asked for, and the head is the largest matrix.
        last = low.program.tensor((width,))
        axis, at = low.program.integer(0), low.program.integer(-1)
        low.program.kernel("aten::select_copy", "int_out", [low.exported(source), axis, at], last)
        low.begin()
        x = low.graph.reshape(low.brought(last), (1, width))
    else:
        x = low.operand(source)
    graph = low.graph
    epsilon = np.array([ops.attribute(node, "epsilon")], np.float32)
    (added,) = low.stored(float_weight(EPSILON, from_array(EPSILON, epsilon)), [(1,)], [FLOAT])
    (factor,) = low.stored(float_weight(str(weight.name), gain), [(width,)], [FLOAT])
    mean = graph.mean(graph.multiply(x, x))
    inverse = graph.rsqrt(graph.add(mean, low.brought(added)))
    low.define(node.outputs[0], graph.multiply(graph.multiply(x, inverse), low.brought(factor)))


def _linear(low: Lowering, node: ir.Node) -> None:
    x, weight = low.operand(operand(node, 0)), operand(node, 1)
    order = row_order(node, float_rows(weight).n_rows)
    low.define(node.outputs[0], _product(low, weight, x, order, head=ops.is_head(node)))
    if node.outputs[0].is_graph_output():
        low.program.output(low.exported(node.outputs[0]))


def _rope(low: Lowering, node: ir.Node) -> None:
    source = operand(node, 0)
    producer = source.producer()
    if producer is None or producer.op_type not in ("Linear", "LoRA") or len(_readers(producer)) != 1:
        raise TargetError(
            f"node {node.name} (Rope) must follow a projection",
            expected="a Linear that nobody else reads",
            found=producer.op_type if producer is not None else "an input",
            hint=HINT,
        )
    if operand(node, 1) is not low.model.graph.inputs[1] or operand(node, 2) is not low.frequencies:
        raise TargetError(
            f"node {node.name} (Rope) must rotate as all others do",
            expected=f"{low.model.graph.inputs[1].name} and {low.frequencies.name}",
            found=f"{operand(node, 1).name} and {operand(node, 2).name}",
            hint=HINT,
        )
    graph, x = low.graph, low.operand(source)
    heads = ops.attribute(node, "n_heads")
    half = graph.shape(x)[1] // heads // 2
    cos, sin = (graph.reshape(low.brought(table), (1, TOKENS, 1, half)) for table in low.rotations)
    split = graph.reshape(x, (1, TOKENS, heads, 2 * half))
    even, odd = graph.columns(split, 0, half), graph.columns(split, half, 2 * half)
    first = graph.subtract(graph.multiply(even, cos), graph.multiply(odd, sin))
    second = graph.add(graph.multiply(even, sin), graph.multiply(odd, cos))
    low.define(node.outputs[0], graph.joined(first, second))


def _attention(low: Lowering, node: ir.Node) -> None:
    program, n_kv_heads = low.program, ops.attribute(node, "n_kv_heads")
    n_heads = ops.attribute(node, "n_heads")
    source = operand(node, 2)
    plain = low.operand(source)
    head_dim = low.graph.shape(plain)[1] // n_kv_heads
    low.define(source, low.graph.reshape(plain, (1, TOKENS, n_kv_heads, head_dim)))
    q, k, v = (low.exported(operand(node, i)) for i in range(3))
    caches = []
    for new in (k, v):
        cache = program.tensor((1, low.context, n_kv_heads, head_dim), persistent=True)
        program.kernel("llama::update_cache", "out", [new, cache, low.position], program.tensor((1,)))
        caches.append(cache)
    y = program.tensor((1, TOKENS, n_heads, head_dim))
    mask, dropout = program.null(), program.number(0.0)
    causal, scale = program.boolean(True), program.number(ops.attribute(node, "scale"))
    program.kernel("llama::custom_sdpa", "out", [q, *caches, low.position, mask, dropout, causal, scale], y)
    low.begin()
    low.define(node.outputs[0], low.graph.reshape(low.brought(y), (TOKENS, n_heads * head_dim)))


def _swiglu(low: Lowering, node: ir.Node) -> None:
    gate, up = (low.operand(operand(node, i)) for i in range(2))
    silu = low.graph.multiply(gate, low.graph.sigmoid(gate))
    low.define(node.outputs[0], low.graph.multiply(silu, up))


def _hadamard(low: Lowering, node: ir.Node) -> None:
    source = operand(node, 0)
    producer = source.producer()
    if producer is None or producer.op_type != "SwiGLU":
        raise TargetError(
            f"node {node.name} (Hadamard) must follow the feed-forward layer's gate",
            expected="SwiGLU",
            found=producer.op_type if producer is not None else "an input",
            hint=HINT,
        )
    # The runner has a kernel: two matrix products inside the delegate would cost twice as much (docs/executorch.md).
    x = low.exported(source)
    y = low.program.tensor(x.shape)
    low.program.kernel("llama::fast_hadamard_transform", "out", [x], y)
    low.begin()
    low.define(node.outputs[0], low.brought(y))


def _lora(low: Lowering, node: ir.Node) -> None:
    y, x, a, b = (operand(node, i) for i in range(4))
    producer = y.producer()
    if producer is None or producer.op_type != "Linear" or producer.inputs[0] is not x or len(_readers(producer)) != 1:
        raise TargetError(
            f"node {node.name} (LoRA) must be beside a projection",
            expected="a Linear of the same input that nobody else reads",
            found=producer.op_type if producer is not None else "an input",
            hint=HINT,
        )
    factor = from_array(LORA_SCALE, np.array([ops.attribute(node, "scale")], np.float32))
    (scale,) = low.stored(float_weight(LORA_SCALE, factor), [(1,)], [FLOAT])
    # Neither rounded nor folded into a matrix: both are Meta's own numbers. The scale meets the narrow side.
    narrow = low.graph.multiply(_product(low, a, low.operand(x), None), low.brought(scale))
    wide = _product(low, b, narrow, row_order(node, low.graph.shape(low.operand(y))[1]))
    low.define(node.outputs[0], low.graph.add(low.operand(y), wide))


def _residual(low: Lowering, node: ir.Node) -> None:
    x, y = (low.operand(operand(node, i)) for i in range(2))
    low.define(node.outputs[0], low.graph.add(x, y))


def _scatter_logits(low: Lowering, node: ir.Node) -> None:
    """The logits of the kept tokens into a row of minus infinity: the runner wants one for every token."""
    scores = operand(node, 0)
    producer = scores.producer()
    if producer is None or producer.op_type != "Linear" or not node.outputs[0].is_graph_output():
        raise TargetError(
            f"node {node.name} (ScatterLogits) must be the end of the graph",
            expected="the logits of a head",
            found=producer.op_type if producer is not None else "an input",
            hint=HINT,
        )
    tokens = row_tensor(operand(node, 1))
    vocab_size = ops.attribute(node, "vocab_size")
    columns = tokens.rows(0, tokens.n_rows)
    nothing = np.full(vocab_size, -np.inf, np.float32)
    (index,) = low.stored(array(KEPT_TOKENS, columns), [(1, tokens.n_rows)], [LONG])
    (empty,) = low.stored(array(NO_LOGITS, nothing), [(1, vocab_size)], [FLOAT])
    program, logits = low.program, low.program.tensor((1, vocab_size))
    axis = program.integer(1)
    program.kernel("aten::scatter", "src_out", [empty, axis, index, low.exported(scores)], logits)
    program.output(logits)


RULES: dict[str, Callable[[Lowering, ir.Node], None]] = {
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
    "DequantizeLinear": lambda low, node: None,  # its consumers take the integers
}
"""Op -> how it is lowered."""


def _rotations(low: Lowering) -> tuple[Tensor, ...]:
    """The rows of the table for the positions of this call."""
    program = low.program
    axis, tokens, end, step = program.integer(1), program.integer(0), program.integer(0), program.integer(1)
    program.kernel("aten::sym_size", "int", [low.tokens, axis], tokens)
    program.kernel("executorch_prim::add", "Scalar", [low.position, tokens], end)
    rows = []
    for table in rotary_tables(row_tensor(low.frequencies), low.context):
        shape = low.context, row_tensor(low.frequencies).n_rows
        (stored,) = low.stored(table, [shape], [FLOAT])
        rows.append(program.tensor((TOKENS, shape[1])))
        along = program.integer(0)
        program.kernel("aten::slice_copy", "Tensor_out", [stored, along, low.position, end, step], rows[-1])
    return tuple(rows)


def lower(model: ir.Model, engine: Engine) -> Lowered:
    """Lower a graph; no matrix is read.

    Args:
        model: A graph that ``verify`` accepts, quantized or not. Its ``max_seq_len`` becomes the size of the cache.
        engine: What computes everything but the embedding, the cache and the attention.

    Raises:
        GraphError: If the graph is invalid.
        TargetError: If it holds an op, a wiring or an encoding that has no counterpart here.
    """
    verify(model)
    context = config_of(model).max_seq_len
    program = Program(min(context, MAX_TOKENS))
    tokens, start = program.input((1, TOKENS), LONG), program.input((1,), LONG)
    position = program.integer(0)
    program.kernel("aten::_local_scalar_dense", "", [start], position)
    frequencies = next((operand(node, 2) for node in model.graph if node.op_type == "Rope"), None)
    if frequencies is None:
        raise TargetError("the graph has no Rope", expected="a Llama", found="none", hint=HINT)
    low = Lowering(model, program, context, position, tokens, frequencies, engine)
    low.rotations = _rotations(low)
    for node in model.graph:
        if node.op_type not in RULES:
            raise TargetError(
                f"node {node.name} has an op that the ExecuTorch target does not know",
                expected=", ".join(RULES),
                found=node.op_type,
                hint=HINT,
            )
        RULES[node.op_type](low, node)
    weights = sorted(low.weights.values(), key=lambda weight: weight.blobs[0].key not in low.constants)
    return Lowered(program, list(low.constants), weights, low.parameters)
