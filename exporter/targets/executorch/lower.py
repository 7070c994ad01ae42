"""Graph -> an ExecuTorch program, op by op, without ``torch.export``.

Everything between two attentions is one XNNPACK delegate; what remains outside are the embedding, the rows of the
rotary table, the cache and the attention itself, for which the LLM runner links kernels of its own
(``llama::update_cache``, ``llama::custom_sdpa``), as it does for SpinQuant's ``llama::fast_hadamard_transform``.
``torch.export`` and the partitioner make twelve delegates a layer of the same model, and take a minute for two layers
(measured with ExecuTorch 1.4.0).

Activations are ``[tokens, width]`` everywhere but in the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from exporter.targets.executorch.program import BYTE, CHAR, FLOAT, HALF, LONG, Call, Program, Tensor
from exporter.targets.executorch.rotary import COS, SIN, rotary_tables
from exporter.targets.executorch.subgraph import TOKENS, Constant, Shape, Subgraph
from exporter.targets.executorch.weights import Weight, float_weight, int4_groups, int4_table, int8_rows
from exporter.tensors import RowTensor, from_array, permute_rows

EPSILON = "norm_eps"
"""Name of the constant that the norms add."""
LORA_SCALE = "lora_scale"
"""Name of the constant that the adaptors are multiplied by."""
_OWN = (EPSILON, LORA_SCALE, COS, SIN)
_GROUP_MULTIPLE = 32
"""XNNPACK's blockwise kernels take groups of a multiple of it (``xnn_define_blockwise_quantized_tensor_value``)."""
_HINT = "the ExecuTorch target lowers decoders as exporter.ir.build makes them"


@dataclass(frozen=True)
class Lowered:
    """The result.

    Attributes:
        program: The method ``forward``, its subgraphs complete.
        constants: Names of the blobs that are constants of the program, from number 1 on.
        weights: Every weight, those first.
        parameters: Canonical name -> decoded weight of every parameter that was lowered.
    """

    program: Program
    constants: list[str]
    weights: list[Weight]
    parameters: dict[str, RowTensor]

    @property
    def own_constants(self) -> list[str]:
        """The constants that are this program's: they depend on its context, or are numbers and no weights."""
        return [key for key in self.constants if key in _OWN]

    @property
    def own_weights(self) -> list[Weight]:
        """Their blobs."""
        return [weight for weight in self.weights if weight.blobs[0].key in _OWN]


@dataclass
class _Made:
    """Where a value of the graph is: in a subgraph, and in a tensor if somebody outside needs it."""

    call: Call
    id: int
    tensor: Tensor | None = None


@dataclass
class _Lowering:
    """State of one walk.

    Attributes:
        model: The graph being lowered.
        program: The program under construction.
        context: Positions of the cache.
        position: Value of the first token's position.
        tokens: The input, int64 ``[1, tokens]``.
        frequencies: What every ``Rope`` rotates by.
        rounds: See :func:`lower`.
        rotations: Cosines and sines of this call's positions, float32 ``[tokens, head_dim / 2]``.
        values: Graph value -> where it is.
        inside: What each subgraph has been given from outside: (call, tensor's value) -> value id.
    """

    model: ir.Model
    program: Program
    context: int
    position: int
    tokens: Tensor
    frequencies: ir.Value
    rounds: bool
    rotations: tuple[Tensor, ...] = ()
    _call: Call | None = None
    values: dict[ir.Value, _Made | Tensor] = field(default_factory=dict)
    inside: dict[tuple[int, int], int] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    parameters: dict[str, RowTensor] = field(default_factory=dict)

    @property
    def call(self) -> Call:
        """The subgraph that ops go into."""
        if self._call is None:
            raise TargetError(
                "the graph does not begin with an embedding", expected="Embedding", found="another op", hint=_HINT
            )
        return self._call

    def begin(self) -> None:
        """Ops go into a new subgraph from here on."""
        self._call = self.program.delegate()

    @property
    def graph(self) -> Subgraph:
        return self.call.graph

    def operand(self, value: ir.Value) -> int:
        """The value in the current subgraph, brought in from outside if it is not there."""
        made = self.values[value]
        if isinstance(made, _Made) and made.call is self.call:
            return made.id
        return self.brought(self.exported(value))

    def brought(self, tensor: Tensor) -> int:
        key = id(self.call), tensor.value
        if key not in self.inside:
            self.inside[key] = self.graph.input(tensor.shape)
            self.call.arguments[self.inside[key]] = tensor
        return self.inside[key]

    def exported(self, value: ir.Value) -> Tensor:
        """The value as a tensor of the program."""
        made = self.values[value]
        if isinstance(made, Tensor):
            return made
        if made.tensor is None:
            made.tensor = self.program.tensor(made.call.graph.shape(made.id))
            made.call.graph.outputs.append(made.id)
            made.call.arguments[made.id] = made.tensor
        return made.tensor

    def define(self, value: ir.Value, id: int) -> None:
        self.values[value] = _Made(self.call, id)

    def weight(self, weight: Weight) -> tuple[Constant, ...]:
        """The blobs of a weight; one that is there already, by its name, is shared."""
        return self.weights.setdefault(weight.blobs[0].key, weight).blobs

    def stored(self, weight: Weight, shapes: Sequence[Shape], dtypes: Sequence[int]) -> list[Tensor]:
        """A weight as constants of the program: what its own kernels read, and what delegates do not pack.

        XNNPACK's backend frees what it read under a name as soon as it has packed it; an addend or a factor is never
        packed, so that its memory would be gone (measured with ExecuTorch 1.4.0: a crash).
        """
        found = []
        # What follows the program's own blobs is for delegates.
        for blob, shape, dtype in zip(self.weight(weight), shapes, dtypes, strict=False):
            if blob.key not in self.constants:
                self.constants[blob.key] = self.program.tensor(shape, dtype, name=blob.key)
            found.append(self.constants[blob.key])
        return found


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise TargetError(
            f"node {node.name} ({node.op_type}) lacks operand {index}", expected="a value", found="none", hint=_HINT
        )
    return value


def _readers(node: ir.Node) -> list[ir.Node]:
    return [user for user, _ in node.outputs[0].uses()]


def _row_order(node: ir.Node, n_rows: int) -> npt.NDArray[np.intp] | None:
    """How the rows of a projection are ordered; ``None`` where they stay.

    XNNPACK cannot take every other column: the rows of a head that is rotated come in halves, and so do its columns.
    """
    for reader in _readers(node):
        if reader.op_type == "Rope":
            heads = ops.attribute(reader, "n_heads")
            return half_from_interleaved(heads, n_rows // heads)
        if reader.op_type == "LoRA":
            return _row_order(reader, n_rows)
    return None


def _float_matrix(low: _Lowering, weight: ir.Value, order: npt.NDArray[np.intp] | None) -> int:
    rows = row_tensor(weight)
    low.parameters.setdefault(str(weight.name), rows)
    ordered = rows if order is None else permute_rows(rows, order)
    (matrix,) = low.weight(float_weight(str(weight.name), ordered))
    return low.graph.constant(matrix, rows.dims)


def _is_head(node: ir.Node) -> bool:
    return node.op_type == "Linear" and node.outputs[0].is_graph_output()


def _is_matrix(table: ir.Value) -> bool:
    """Whether an embedding is tied to a head."""
    return any(user.op_type == "Linear" for user, _ in table.uses())


def _is_table(weight: ir.Value) -> bool:
    """Whether a matrix is tied to the embedding."""
    return any(user.op_type == "Embedding" for user, _ in weight.uses())


def _embedding(low: _Lowering, node: ir.Node) -> None:
    table = _operand(node, 1)
    name = str(table.name)
    rows = low.parameters.setdefault(name, float_rows(table))
    program, (n_rows, width) = low.program, rows.dims
    found = program.tensor((1, TOKENS, width))
    if is_quantized(table):
        ints, scales, block = quantized_parts(table)
        if ints.dtype == ir.DataType.INT8 and block == width:
            kernel = "embedding_byte"
            stored = low.stored(int8_rows(name, ints, scales), [(n_rows, width), (n_rows,)], [CHAR, FLOAT])
        elif ints.dtype == ir.DataType.INT4 and block % _GROUP_MULTIPLE == 0:
            kernel = "embedding_4bit"
            shapes = [(n_rows, width // 2), (n_rows, width // block)]
            stored = low.stored(int4_table(name, ints, scales, shared=_is_matrix(table)), shapes, [BYTE, HALF])
        else:
            raise TargetError(
                f"ExecuTorch has no kernel for {name}",
                expected="8 bits with a scale a row, or 4 bits in groups of a multiple of 32",
                found=f"{ints.dtype.name} in groups of {block}",
                hint=_HINT,
            )
        # The kernels know the range of their integers and do not look at what they are told of it.
        none, unused, dtype = program.null(), program.integer(0), program.integer(FLOAT)
        program.kernel(
            f"quantized_decomposed::{kernel}", "dtype_out",
            [*stored, none, unused, unused, low.tokens, dtype], found,
        )  # fmt: skip
    else:
        (weight,) = low.stored(float_weight(name, row_tensor(table)), [(n_rows, width)], [FLOAT])
        padding, no = program.integer(-1), program.boolean(False)
        program.kernel("aten::embedding", "out", [weight, low.tokens, padding, no, no], found)
    low.begin()
    low.define(node.outputs[0], low.graph.reshape(low.brought(found), (TOKENS, width)))


def _rms_norm(low: _Lowering, node: ir.Node) -> None:
    source, weight = _operand(node, 0), _operand(node, 1)
    gain = low.parameters.setdefault(str(weight.name), float_rows(weight))
    width = gain.n_rows
    if any(_is_head(reader) for reader in _readers(node)):
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
    mean = graph.mean(graph.binary("XNNMultiply", x, x))
    inverse = graph.unary("XNNReciprocalSquareRoot", graph.binary("XNNAdd", mean, low.brought(added)))
    scaled = graph.binary("XNNMultiply", x, inverse)
    low.define(node.outputs[0], graph.binary("XNNMultiply", scaled, low.brought(factor)))


def _linear(low: _Lowering, node: ir.Node) -> None:
    x, weight = low.operand(_operand(node, 0)), _operand(node, 1)
    name = str(weight.name)
    shape = low.parameters.setdefault(name, float_rows(weight)).dims
    order = _row_order(node, shape[0])

    def ordered(rows: RowTensor) -> RowTensor:
        return rows if order is None else permute_rows(rows, order)

    graph = low.graph
    if not is_quantized(weight):
        y = graph.linear(x, _float_matrix(low, weight, order))
    else:
        ints, scales, block = quantized_parts(weight)
        parts = ordered(ints), ordered(scales)
        if ints.dtype == ir.DataType.INT8 and block == shape[1]:
            filter_ = graph.int8_rows(low.weight(int8_rows(name, *parts)), shape)
            # One token's head waits for its weights: rounding what they multiply would gain nothing.
            x = graph.rounded(x) if low.rounds and not _is_head(node) else x
        elif ints.dtype == ir.DataType.INT4 and block % _GROUP_MULTIPLE == 0:
            if _is_table(weight):
                packed, _, steps = low.weight(int4_table(name, *parts, shared=True))
                x = _swapped_pairs(graph, x)
            else:
                packed, steps = low.weight(int4_groups(name, *parts))
            filter_ = graph.int4_groups((packed, steps), shape, block)
            x = graph.rounded(x)  # XNNPACK has no other kernel for these
        else:
            raise TargetError(
                f"XNNPACK has no kernel for {name}",
                expected="8 bits with a scale a row, or 4 bits in groups of a multiple of 32",
                found=f"{ints.dtype.name} in groups of {block}",
                hint="export to gguf or onnx instead",
            )
        y = graph.linear(x, filter_)
    low.define(node.outputs[0], y)
    if _is_head(node):
        low.program.output(low.exported(node.outputs[0]))


def _swapped_pairs(graph: Subgraph, x: int) -> int:
    """``x [n, width]`` as a matrix wants it whose integers are the embedding's: its columns are exchanged in pairs.

    The two kernels read the halves of a byte in opposite order. The head multiplies one token, so that moving its input
    costs nothing against storing the largest matrix twice.
    """
    n, width = graph.shape(x)
    pairs = graph.reshape(x, (n, width // 2, 2))
    swapped = graph.joined(graph.columns(pairs, 1, 2), graph.columns(pairs, 0, 1))
    return graph.reshape(swapped, (n, width))


def _rope(low: _Lowering, node: ir.Node) -> None:
    source = _operand(node, 0)
    producer = source.producer()
    if producer is None or producer.op_type not in ("Linear", "LoRA") or len(_readers(producer)) != 1:
        raise TargetError(
            f"node {node.name} (Rope) must follow a projection",
            expected="a Linear that nobody else reads",
            found=producer.op_type if producer is not None else "an input",
            hint=_HINT,
        )
    if _operand(node, 1) is not low.model.graph.inputs[1] or _operand(node, 2) is not low.frequencies:
        raise TargetError(
            f"node {node.name} (Rope) must rotate as all others do",
            expected=f"{low.model.graph.inputs[1].name} and {low.frequencies.name}",
            found=f"{_operand(node, 1).name} and {_operand(node, 2).name}",
            hint=_HINT,
        )
    graph, x = low.graph, low.operand(source)
    heads = ops.attribute(node, "n_heads")
    half = graph.shape(x)[1] // heads // 2
    cos, sin = (graph.reshape(low.brought(table), (1, TOKENS, 1, half)) for table in low.rotations)
    split = graph.reshape(x, (1, TOKENS, heads, 2 * half))
    even, odd = graph.columns(split, 0, half), graph.columns(split, half, 2 * half)

    def product(a: int, b: int) -> int:
        return graph.binary("XNNMultiply", a, b)

    first = graph.binary("XNNSubtract", product(even, cos), product(odd, sin))
    second = graph.binary("XNNAdd", product(even, sin), product(odd, cos))
    low.define(node.outputs[0], graph.joined(first, second))


def _attention(low: _Lowering, node: ir.Node) -> None:
    program, n_kv_heads = low.program, ops.attribute(node, "n_kv_heads")
    n_heads = ops.attribute(node, "n_heads")
    source = _operand(node, 2)
    plain = low.operand(source)
    head_dim = low.graph.shape(plain)[1] // n_kv_heads
    low.define(source, low.graph.reshape(plain, (1, TOKENS, n_kv_heads, head_dim)))
    q, k, v = (low.exported(_operand(node, i)) for i in range(3))
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


def _swiglu(low: _Lowering, node: ir.Node) -> None:
    gate, up = (low.operand(_operand(node, i)) for i in range(2))
    silu = low.graph.binary("XNNMultiply", gate, low.graph.unary("XNNSigmoid", gate))
    low.define(node.outputs[0], low.graph.binary("XNNMultiply", silu, up))


def _hadamard(low: _Lowering, node: ir.Node) -> None:
    source = _operand(node, 0)
    producer = source.producer()
    if producer is None or producer.op_type != "SwiGLU":
        raise TargetError(
            f"node {node.name} (Hadamard) must follow the feed-forward layer's gate",
            expected="SwiGLU",
            found=producer.op_type if producer is not None else "an input",
            hint=_HINT,
        )
    # The runner has a kernel: two matrix products inside the delegate would cost twice as much (docs/executorch.md).
    x = low.exported(source)
    y = low.program.tensor(x.shape)
    low.program.kernel("llama::fast_hadamard_transform", "out", [x], y)
    low.begin()
    low.define(node.outputs[0], low.brought(y))


def _lora(low: _Lowering, node: ir.Node) -> None:
    y, x, a, b = (_operand(node, i) for i in range(4))
    producer = y.producer()
    if producer is None or producer.op_type != "Linear" or producer.inputs[0] is not x or len(_readers(producer)) != 1:
        raise TargetError(
            f"node {node.name} (LoRA) must be beside a projection",
            expected="a Linear of the same input that nobody else reads",
            found=producer.op_type if producer is not None else "an input",
            hint=_HINT,
        )
    graph = low.graph
    factor = from_array(LORA_SCALE, np.array([ops.attribute(node, "scale")], np.float32))
    (scale,) = low.stored(float_weight(LORA_SCALE, factor), [(1,)], [FLOAT])
    # Neither rounded nor folded into a matrix: both are Meta's own numbers. The scale meets the narrow side.
    narrow = graph.linear(low.operand(x), _float_matrix(low, a, None))
    scaled = graph.binary("XNNMultiply", narrow, low.brought(scale))
    wide = graph.linear(scaled, _float_matrix(low, b, _row_order(node, graph.shape(low.operand(y))[1])))
    low.define(node.outputs[0], graph.binary("XNNAdd", low.operand(y), wide))


def _residual(low: _Lowering, node: ir.Node) -> None:
    x, y = (low.operand(_operand(node, i)) for i in range(2))
    low.define(node.outputs[0], low.graph.binary("XNNAdd", x, y))


RULES: dict[str, Callable[[_Lowering, ir.Node], None]] = {
    "Embedding": _embedding,
    "RMSNorm": _rms_norm,
    "Linear": _linear,
    "Rope": _rope,
    "Attention": _attention,
    "SwiGLU": _swiglu,
    "Hadamard": _hadamard,
    "LoRA": _lora,
    "Residual": _residual,
    "DequantizeLinear": lambda low, node: None,  # its consumers take the integers
}
"""Op -> how it is lowered."""


def _rotations(low: _Lowering) -> tuple[Tensor, ...]:
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


def lower(model: ir.Model, *, rounds: bool = True) -> Lowered:
    """Lower a graph; no matrix is read.

    Args:
        model: A graph that ``verify`` accepts, quantized or not. Its ``max_seq_len`` becomes the size of the cache.
        rounds: Whether activations are rounded to 8 bits where 8-bit matrices multiply many tokens.

    Raises:
        GraphError: If the graph is invalid.
        TargetError: If it holds an op, a wiring or an encoding that has no counterpart here.
    """
    verify(model)
    context = config_of(model).max_seq_len
    program = Program(context)
    tokens, start = program.input((1, TOKENS), LONG), program.input((1,), LONG)
    position = program.integer(0)
    program.kernel("aten::_local_scalar_dense", "", [start], position)
    frequencies = next((_operand(node, 2) for node in model.graph if node.op_type == "Rope"), None)
    if frequencies is None:
        raise TargetError("the graph has no Rope", expected="a Llama", found="none", hint=_HINT)
    low = _Lowering(model, program, context, position, tokens, frequencies, rounds)
    low.rotations = _rotations(low)
    for node in model.graph:
        if node.op_type not in RULES:
            raise TargetError(
                f"node {node.name} has an op that the ExecuTorch target does not know",
                expected=", ".join(RULES),
                found=node.op_type,
                hint=_HINT,
            )
        RULES[node.op_type](low, node)
    weights = sorted(low.weights.values(), key=lambda weight: weight.blobs[0].key not in low.constants)
    return Lowered(program, list(low.constants), weights, low.parameters)
