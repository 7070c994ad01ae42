"""Graph -> the ONNX graph that browsers run, op by op.

Each op of the vocabulary has one rule; what ONNX Runtime has a fused kernel for is fused on the way:

* ``DequantizeLinear`` + ``Linear`` -> ``MatMulNBits``; ``MatMulInteger`` where a row has one scale,
* the three projections of a layer -> one, where they are encoded alike,
* ``Rope`` + ``Attention`` -> ``GroupQueryAttention``,
* ``Residual`` + ``RMSNorm`` -> ``SkipSimplifiedLayerNormalization``.

Activations are ``[batch * seq_len, width]`` everywhere but in the attention: a matrix then needs no transposition
(``Gemm`` with ``transB``), neither in the file nor on the way to it. Op semantics: ONNX Runtime's
``docs/ContribOperators.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import TargetError
from exporter.ir import ops
from exporter.ir.build import config_of
from exporter.ir.verify import verify
from exporter.ir.weights import float_rows, is_quantized, quantized_parts, row_tensor
from exporter.rope import half_from_interleaved
from exporter.targets.base import EXPORT_THE_ORIGINAL
from exporter.targets.half import RESIDUAL_HEADROOM
from exporter.targets.onnx import batch, names
from exporter.targets.onnx.emit import IR_VERSION, Emitter
from exporter.targets.onnx.integer_product import planes, product
from exporter.targets.onnx.rotary import rotary_tables
from exporter.targets.onnx.weights import Weight, column_weight, float_weight, integer_weight
from exporter.tensors import RowTensor, permute_rows

F32, I64 = ir.DataType.FLOAT, ir.DataType.INT64
Order = npt.NDArray[np.intp] | None
"""Which row comes where; ``None`` leaves them as they are."""

_HINT = "the ONNX target lowers decoders as exporter.ir.build makes them"
_BITS = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}


@dataclass(frozen=True)
class Lowered:
    """The result.

    Attributes:
        model: The ONNX model; where its weights lie is still open.
        weights: What its data files must hold.
        parameters: Canonical name -> decoded weight of every parameter that was lowered.
        activations: Element type of matrix products, attention and cache.
    """

    model: ir.Model
    weights: list[Weight]
    parameters: dict[str, RowTensor]
    activations: ir.DataType


@dataclass
class _Lowering:
    """State of one walk.

    Attributes:
        emitter: The graph under construction.
        half: Element type of matrix products, attention and cache.
        model: The graph being lowered.
        inputs: The inputs of the result and what follows from them.
        values: Graph value -> its lowered value, ``[batch * seq_len, width]``; fused ones are missing.
        parameters: Canonical name -> decoded weight of what was lowered so far.
        caches: Extended keys and values of each attention so far.
    """

    emitter: Emitter
    model: ir.Model
    half: ir.DataType
    inputs: batch.Inputs
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    parameters: dict[str, RowTensor] = field(default_factory=dict)
    caches: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    def parameter(self, value: ir.Value) -> RowTensor:
        """A weight operand, noted as lowered."""
        return self.parameters.setdefault(str(value.name), float_rows(value))

    def project(self, x: ir.Value, weights: list[ir.Value], name: str, order: list[Order]) -> ir.Value:
        """``x`` times some matrices side by side, their rows in the given orders, in the type of matrix products."""
        emitter = self.emitter
        x = emitter.cast(x, self.half)
        for weight in weights:
            self.parameter(weight)
        node = name.removesuffix(".weight")
        if not is_quantized(weights[0]):
            rows = [_ordered(row_tensor(w), index) for w, index in zip(weights, order, strict=True)]
            (matrix,) = emitter.weight(float_weight(name, rows, self.half))
            return emitter.op("Gemm", x, matrix, name=node, dtype=self.half, transB=1)
        ints, _, block = quantized_parts(weights[0])
        bits = _BITS[ints.dtype]
        parts = [
            (_ordered(parts[0], index), _ordered(parts[1], index))
            for parts, index in zip(map(quantized_parts, weights), order, strict=True)
        ]
        if bits == 8 and block == ints.dims[1]:
            columns, scales = emitter.weight(column_weight(name, parts))
            return product(emitter, planes(emitter, x, block), columns, scales, node)
        blocks = integer_weight(name, parts, bits, self.half)
        n_rows = blocks.blobs[0].shape[0]
        return emitter.microsoft(
            "MatMulNBits", x, *emitter.weight(blocks), name=node, dtype=self.half,
            N=n_rows, K=ints.dims[1], bits=bits, block_size=block, accuracy_level=ACCURACY_LEVEL,
        )[0]  # fmt: skip


ACCURACY_LEVEL = 4
"""Of ``MatMulNBits``: activations are rounded to 8 bits a block, as llama.cpp does. SmolLM2-135M as int4 on two cores:
91 tokens/s and a KL of 0.005 to the reference on the same weights; with float32 activations (0), 6 tokens/s."""

HEAD_DIM_MULTIPLE = 16
"""``GroupQueryAttention`` with ``do_rotary`` refuses others when it runs (ONNX Runtime 1.31, ``rotary_helper``)."""


def _ordered(rows: RowTensor, index: Order) -> RowTensor:
    return rows if index is None else permute_rows(rows, index)


def _encoding(weight: ir.Value) -> tuple[ir.DataType, int]:
    """What must be equal for matrices to be stacked."""
    if not is_quantized(weight):
        return row_tensor(weight).dtype, 0
    ints, _, block = quantized_parts(weight)
    return ints.dtype, block


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise TargetError(
            f"node {node.name} ({node.op_type}) lacks operand {index}", expected="a value", found="none", hint=_HINT
        )
    return value


def _made_by(value: ir.Value, op: str, reader: ir.Node) -> ir.Node:
    node = value.producer()
    if node is None or node.op_type != op:
        raise TargetError(
            f"node {reader.name} ({reader.op_type}) cannot be fused",
            expected=f"{value.name} made by {op}",
            found=node.op_type if node is not None else "an input",
            hint=_HINT,
        )
    return node


def _read_by(node: ir.Node, *op_types: str) -> bool:
    """Whether an output of ``node`` goes into one of these ops, whose rule will then lower ``node`` with it."""
    return any(user.op_type in op_types for output in node.outputs for user, _ in output.uses())


def _embedding(low: _Lowering, node: ir.Node) -> None:
    table = _operand(node, 1)
    low.parameter(table)
    name = str(table.name)
    emitter, ids = low.emitter, low.inputs.token_ids
    if not is_quantized(table):
        (rows,) = emitter.weight(float_weight(name, [row_tensor(table)], low.half))
        found = emitter.op("Gather", rows, ids, name="embedding", dtype=low.half, axis=0)
        low.values[node.outputs[0]] = emitter.cast(found, F32)
        return
    ints, scales, block = quantized_parts(table)
    if ints.dtype != ir.DataType.INT8:
        raise TargetError(f"{name} must have 8 bits", found=ints.dtype.name, hint="use a recipe with an int8 embedding")
    if block == ints.dims[1]:
        columns, steps = emitter.weight(column_weight(name, [(ints, scales)]))
        picked = emitter.op("Gather", columns, ids, name="embedding.columns", dtype=ir.DataType.INT8, axis=1)
        step = emitter.op("Gather", steps, ids, name="embedding.scale", dtype=F32, axis=0)
        scaled = emitter.op("Mul", emitter.cast(picked, F32), step, name="embedding.scaled", dtype=F32)
        low.values[node.outputs[0]] = emitter.op("Transpose", scaled, name="embedding", dtype=F32, perm=[1, 0])
        return
    # The very bytes that MatMulNBits reads as the head. GatherBlockQuantized would be one node, but wasm has none.
    blocks, steps = emitter.weight(integer_weight(name, [(ints, scales)], 8, low.half))
    levels = emitter.op("Gather", blocks, ids, name="embedding.levels", dtype=ir.DataType.UINT8, axis=0)
    step = emitter.cast(emitter.op("Gather", steps, ids, name="embedding.scale", dtype=low.half, axis=0), F32)
    column = emitter.op(
        "Unsqueeze", step, emitter.constant("last_axis", np.array([-1])), name="embedding.column", dtype=F32
    )
    zero = emitter.constant("zero_point_8", np.float32(128))
    centred = emitter.op("Sub", emitter.cast(levels, F32), zero, name="embedding.centred", dtype=F32)
    scaled = emitter.op("Mul", centred, column, name="embedding.scaled", dtype=F32)
    flat = emitter.constant("embedding.shape", np.array([-1, ints.dims[1]]))
    low.values[node.outputs[0]] = emitter.op("Reshape", scaled, flat, name="embedding", dtype=F32)


def _rms_norm(low: _Lowering, node: ir.Node) -> None:
    x, weight = _operand(node, 0), _operand(node, 1)
    low.parameter(weight)
    (gain,) = low.emitter.weight(float_weight(str(weight.name), [row_tensor(weight)], F32))
    epsilon = ops.attribute(node, "epsilon")
    name = str(node.name)
    if x in low.values:
        # ONNX Runtime keeps this op in the standard domain, where no opset defines it.
        y = low.emitter.op(
            "SimplifiedLayerNormalization", low.values[x], gain, name=name, dtype=F32,
            axis=-1, epsilon=epsilon, stash_type=1,
        )  # fmt: skip
    else:
        residual = _made_by(x, "Residual", node)
        terms = [low.emitter.cast(low.values[_operand(residual, i)], F32) for i in range(2)]
        y, mean, inverse, total = low.emitter.microsoft(
            "SkipSimplifiedLayerNormalization", *terms, gain, name=name, dtype=F32, n_outputs=4, epsilon=epsilon
        )
        mean.name = inverse.name = ""  # an output without a name is one that nobody wants
        low.values[x] = total
    low.values[node.outputs[0]] = y


def _residual_term(low: _Lowering, x: ir.Value, weight: ir.Value) -> ir.Value:
    """A product that the residual stream takes up, in float32.

    It is here that a Llama's largest activations arise: in float16 the product is computed at a fraction of its size.
    """
    emitter, name = low.emitter, str(weight.name)
    if low.half == F32:
        return low.project(x, [weight], name, [None])
    node = name.removesuffix(".weight")
    smaller = emitter.constant("residual.smaller", np.array(1 / RESIDUAL_HEADROOM, low.half.numpy()))
    x = emitter.op("Mul", emitter.cast(x, low.half), smaller, name=f"{node}.smaller", dtype=low.half)
    y = emitter.cast(low.project(x, [weight], name, [None]), F32)
    larger = emitter.constant("residual.larger", np.float32(RESIDUAL_HEADROOM))
    return emitter.op("Mul", y, larger, name=f"{node}.larger", dtype=F32)


def _linear(low: _Lowering, node: ir.Node) -> None:
    if _read_by(node, "Rope", "Attention"):
        return
    x, weight = low.values[_operand(node, 0)], _operand(node, 1)
    if _read_by(node, "Residual"):
        low.values[node.outputs[0]] = _residual_term(low, x, weight)
        return
    if not ops.is_head(node):
        low.values[node.outputs[0]] = low.project(x, [weight], str(weight.name), [None])
        return
    kept = batch.last_rows(low.emitter, x, low.inputs)
    scores = low.emitter.cast(low.project(kept, [weight], str(weight.name), [None]), F32)
    low.values[node.outputs[0]] = scores
    if node.outputs[0].is_graph_output():
        _logits(low, scores)


def _logits(low: _Lowering, scores: ir.Value) -> None:
    """The result, of the scores of all tokens at the positions that were asked for."""
    vocab_size = config_of(low.model).vocab_size
    logits = batch.unflatten(low.emitter, scores, low.inputs, vocab_size, "logits.rows")
    low.emitter.output(logits, "logits", F32, ("batch_size", "num_logits", vocab_size))


def _scatter_logits(low: _Lowering, node: ir.Node) -> None:
    emitter, scores = low.emitter, _operand(node, 0)
    _made_by(scores, "Linear", node)
    if not node.outputs[0].is_graph_output():
        raise TargetError(
            f"node {node.name} (ScatterLogits) is not the end of the graph",
            expected="logits",
            found=", ".join(sorted({user.op_type for user, _ in node.outputs[0].uses()})),
            hint=_HINT,
        )
    some, n_tokens = low.values[scores], row_tensor(_operand(node, 1)).n_rows
    tokens = emitter.constant("kept_tokens", row_tensor(_operand(node, 1)).rows(0, n_tokens))
    shape = emitter.op("Shape", some, name="kept.shape", dtype=I64)
    rows = emitter.op("Gather", shape, emitter.constant("axis_0", np.array([0])), name="kept.rows", dtype=I64)
    width = emitter.constant("vocab_size", np.array([ops.attribute(node, "vocab_size")]))
    full_shape = emitter.op("Concat", rows, width, name="kept.full_shape", dtype=I64, axis=0)
    none = emitter.constant("minus_infinity", np.float32(-np.inf))
    empty = emitter.op("Expand", none, full_shape, name="kept.empty", dtype=F32)
    columns = emitter.op("Expand", tokens, shape, name="kept.columns", dtype=I64)
    _logits(low, emitter.op("ScatterElements", empty, columns, some, name="kept.logits", dtype=F32, axis=1))


def _rope(low: _Lowering, node: ir.Node) -> None:
    _made_by(_operand(node, 0), "Linear", node)
    if _operand(node, 1) is not low.model.graph.inputs[1] or not _read_by(node, "Attention"):
        raise TargetError(
            f"node {node.name} (Rope) cannot be part of an attention",
            expected=f"a rotation by {low.model.graph.inputs[1].name} that an Attention reads",
            found=", ".join(sorted({user.op_type for user, _ in node.outputs[0].uses()})) or "no reader",
            hint=_HINT,
        )


def _attention(low: _Lowering, node: ir.Node) -> None:
    emitter, layer = low.emitter, len(low.caches)
    n_heads, n_kv_heads = ops.attribute(node, "n_heads"), ops.attribute(node, "n_kv_heads")
    ropes = [_made_by(_operand(node, i), "Rope", node) for i in range(2)]
    linears = [_made_by(_operand(rope, 0), "Linear", rope) for rope in ropes]
    linears.append(_made_by(_operand(node, 2), "Linear", node))
    frequencies = row_tensor(_operand(ropes[0], 2))
    head_dim = 2 * frequencies.n_rows
    if any(_operand(rope, 2) is not _operand(ropes[0], 2) for rope in ropes):
        raise TargetError(
            f"node {node.name} (Attention): query and key rotate differently",
            expected="the same frequencies",
            found=", ".join(str(_operand(rope, 2).name) for rope in ropes),
            hint=_HINT,
        )
    if head_dim % HEAD_DIM_MULTIPLE:
        raise TargetError(
            f"ONNX Runtime's attention cannot compute heads of width {head_dim}",
            expected=f"a multiple of {HEAD_DIM_MULTIPLE}",
            found=head_dim,
            hint="export to gguf instead",
        )

    weights = [_operand(linear, 1) for linear in linears]
    # Not every runtime rotates neighbouring pairs; all rotate the halves of a head.
    orders: list[Order] = [
        half_from_interleaved(n_heads, head_dim),
        half_from_interleaved(n_kv_heads, head_dim),
        None,
    ]
    xs = [low.values[_operand(linear, 0)] for linear in linears]
    canonical = [str(weight.name) for weight in weights]
    name = names.fused(canonical)
    alike = len({_encoding(weight) for weight in weights}) == len(set(xs)) == 1 and names.parts(name) == canonical
    if alike:
        projections = [low.project(xs[0], weights, name, orders)]
    else:
        projections = [
            low.project(x, [weight], str(weight.name), [order])
            for x, weight, order in zip(xs, weights, orders, strict=True)
        ]
    widths = [n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * head_dim]
    widths = [sum(widths)] if alike else widths
    operands: list[ir.Value | None] = [
        batch.unflatten(emitter, projection, low.inputs, width, f"{node.name}.rows{index}")
        for index, (projection, width) in enumerate(zip(projections, widths, strict=True))
    ]
    operands += [None] * (3 - len(operands))

    cache = ("batch_size", n_kv_heads, "past_sequence_length", head_dim)
    past = [emitter.input(f"past_key_values.{layer}.{kind}", low.half, cache) for kind in ("key", "value")]
    tables = [emitter.weight(table)[0] for table in rotary_tables(frequencies, config_of(low.model), low.half)]
    y, key, value = emitter.microsoft(
        "GroupQueryAttention", *operands, *past, low.inputs.last_index, low.inputs.total_length, *tables,
        name=str(node.name), dtype=low.half, n_outputs=3,
        num_heads=n_heads, kv_num_heads=n_kv_heads, scale=ops.attribute(node, "scale"), do_rotary=1,
    )  # fmt: skip
    low.caches.append((key, value))
    flat = emitter.constant(f"rows.{n_heads * head_dim}", np.array([-1, n_heads * head_dim]))
    low.values[node.outputs[0]] = emitter.op("Reshape", y, flat, name=f"{node.name}.flat", dtype=low.half)


def _swiglu(low: _Lowering, node: ir.Node) -> None:
    gate, up = (low.values[_operand(node, i)] for i in range(2))
    name = str(node.name)
    sigmoid = low.emitter.op("Sigmoid", gate, name=f"{name}.sigmoid", dtype=low.half)
    silu = low.emitter.op("Mul", gate, sigmoid, name=f"{name}.silu", dtype=low.half)
    low.values[node.outputs[0]] = low.emitter.op("Mul", silu, up, name=name, dtype=low.half)


def _added(low: _Lowering, node: ir.Node) -> None:
    raise TargetError(
        f"node {node.name}: the ONNX target does not lower what Meta adds to a Llama when it quantizes one",
        expected="a Llama without it",
        found=node.op_type,
        hint=EXPORT_THE_ORIGINAL,
    )


def _residual(low: _Lowering, node: ir.Node) -> None:
    if _read_by(node, "RMSNorm"):
        return
    terms = [low.emitter.cast(low.values[_operand(node, i)], F32) for i in range(2)]
    low.values[node.outputs[0]] = low.emitter.op("Add", *terms, name=str(node.name), dtype=F32)


RULES: dict[str, Callable[[_Lowering, ir.Node], None]] = {
    "Embedding": _embedding,
    "RMSNorm": _rms_norm,
    "Linear": _linear,
    "Rope": _rope,
    "Attention": _attention,
    "SwiGLU": _swiglu,
    "Hadamard": _added,
    "LoRA": _added,
    "Residual": _residual,
    "ScatterLogits": _scatter_logits,
    "DequantizeLinear": lambda low, node: None,  # its consumers take the integers
}
"""Op -> how it is lowered."""


def lower(model: ir.Model, activations: ir.DataType) -> Lowered:
    """Lower a graph; no weight is read.

    Args:
        model: A graph that ``verify`` accepts, quantized or not.
        activations: FLOAT or FLOAT16: the type of matrix products, attention and its cache.

    Raises:
        GraphError: If the graph is invalid.
        TargetError: If it holds an op or a wiring that has no counterpart here.
    """
    verify(model)
    emitter = Emitter()
    low = _Lowering(emitter, model, activations, batch.inputs(emitter))
    for node in model.graph:
        if node.op_type not in RULES:
            raise TargetError(
                f"node {node.name} has an op that the ONNX target does not know",
                expected=", ".join(RULES),
                found=node.op_type,
                hint=_HINT,
            )
        RULES[node.op_type](low, node)
    config = config_of(model)
    for layer, pair in enumerate(low.caches):
        for value, kind in zip(pair, ("key", "value"), strict=True):
            shape = ("batch_size", config.n_kv_heads, "total_sequence_length", config.head_dim)
            emitter.output(value, f"present.{layer}.{kind}", activations, shape)
    lowered = ir.Model(emitter.graph, ir_version=IR_VERSION, producer_name="exporter")
    return Lowered(lowered, emitter.weights, low.parameters, activations)
