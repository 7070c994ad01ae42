"""What every op of the graph means, written down once as an ONNX function.

A body is the op's specification: standard opset-23 ops and nothing else, so that a saved graph opens in
Netron and *runs in ONNX Runtime as it is*. That runtime is the second, independent oracle for the torch
interpreter (``tests/ir/test_interpreter.py``). Weights may be stored in any float type; the arithmetic is
float32. Sources of the standard ops: ONNX operator specification, opset 23
(https://onnx.ai/onnx/operators/), of the model: Touvron et al. 2023 (arXiv 2302.13971), of the rotary
embedding: Su et al. 2021 (arXiv 2104.09864), of SwiGLU: Shazeer 2020 (arXiv 2002.05202), of the Hadamard transform
before a projection: Liu et al. 2024 (arXiv 2405.16406), of LoRA: Hu et al. 2021 (arXiv 2106.09685).

Shapes: B batch, S new tokens, P tokens in the cache, T = P + S, D model width, V vocabulary, Dh head width, K tokens
that have a logit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import onnx
import onnx.parser

DOMAIN = "exporter"
DOMAIN_VERSION = 1
OPSET = 23
IR_VERSION = 11

_BODIES = (
    # tokens int64 [B, S], weight [V, D] -> y [B, S, D]
    """
    Embedding (tokens, weight) => (y) {
        row = Gather <axis = 0> (weight, tokens)
        y = Cast <to = 1> (row)
    }
    """,
    # x [..., D], weight [D] -> y [..., D]
    """
    RMSNorm <epsilon: float> (x, weight) => (y) {
        scale = CastLike (weight, x)
        y = RMSNormalization <axis = -1, epsilon: float = @epsilon> (x, scale)
    }
    """,
    # x [..., in], weight [out, in] -> y [..., out]
    """
    Linear (x, weight) => (y) {
        w = CastLike (weight, x)
        wt = Transpose <perm = [1, 0]> (w)
        y = MatMul (x, wt)
    }
    """,
    # x [B, S, n_heads * Dh], positions int64 [B, S], inv_freq [Dh / 2] -> y like x.
    # Interleaved pairs (Meta's layout): elements 2i and 2i + 1 of a head rotate by position * inv_freq[i].
    """
    Rope <n_heads: int> (x, positions, inv_freq) => (y) {
        last = Constant <value_ints = [-1]> ()
        position = Cast <to = 1> (positions)
        column = Unsqueeze (position, last)
        angle = Mul (column, inv_freq)
        cos = Cos (angle)
        sin = Sin (angle)
        y = RotaryEmbedding <interleaved = 1, num_heads: int = @n_heads> (x, cos, sin)
    }
    """,
    # q [B, S, n_heads * Dh], k and v [B, S, n_kv_heads * Dh], past [B, n_kv_heads, P, Dh]
    # -> y [B, S, n_heads * Dh], present [B, n_kv_heads, T, Dh]. Query i sees keys 0 .. P + i. The mask is
    # spelled out because opset 23's is_causal aligns to the upper left corner, which is wrong with a cache.
    """
    Attention <n_heads: int, n_kv_heads: int, scale: float>
    (q, k, v, past_key, past_value) => (y, present_key, present_value) {
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        first = Constant <value_ints = [0]> ()
        second = Constant <value_ints = [1]> ()
        past_1d = Shape <start = 2, end = 3> (past_key)
        past = Squeeze (past_1d)
        new_1d = Shape <start = 1, end = 2> (q)
        new = Squeeze (new_1d)
        total = Add (past, new)
        query = Range (past, total, one)
        key = Range (zero, total, one)
        query_column = Unsqueeze (query, second)
        key_row = Unsqueeze (key, first)
        visible = LessOrEqual (key_row, query_column)
        y, present_key, present_value = Attention
            <q_num_heads: int = @n_heads, kv_num_heads: int = @n_kv_heads, scale: float = @scale>
            (q, k, v, visible, past_key, past_value)
    }
    """,
    # gate, up [..., F] -> y [..., F]
    """
    SwiGLU (gate, up) => (y) {
        sigmoid = Sigmoid (gate)
        silu = Mul (gate, sigmoid)
        y = Mul (silu, up)
    }
    """,
    # x [..., F] -> y [..., F], F a power of two: y = x H / sqrt(F) with Sylvester's matrix, H[i, j] = 1 or -1 as
    # i AND j have an even or odd number of bits in common. It is the Kronecker product of two smaller ones of its
    # kind: x, read as [rows, columns], is multiplied by one from either side. rows is columns or twice that, so that
    # the smaller matrix is a corner of the larger.
    """
    Hadamard (x) => (y) {
        start = Constant <value_ints = [0, 0]> ()
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        two = Constant <value_int = 2> ()
        first = Constant <value_ints = [0]> ()
        last = Constant <value_ints = [-1]> ()
        half = Constant <value_float = 0.5> ()
        shape = Shape (x)
        outer = Shape <start = 0, end = -1> (x)
        width = Shape <start = -1> (x)
        width_0d = Squeeze (width)
        width_float = Cast <to = 1> (width_0d)
        norm = Sqrt (width_float)
        two_float = Cast <to = 1> (two)
        log = Log (width_float)
        log_of_two = Log (two_float)
        bits_float = Div (log, log_of_two)
        bits_near = Round (bits_float)
        bits = Cast <to = 7> (bits_near)
        column_bits = Div (bits, two)
        columns_0d = Pow (two, column_bits)
        columns = Unsqueeze (columns_0d, first)
        rows = Div (width, columns)
        rows_0d = Squeeze (rows)
        index_signed = Range (zero, rows_0d, one)
        index = Cast <to = 12> (index_signed)
        index_column = Unsqueeze (index, last)
        index_row = Unsqueeze (index, first)
        common = BitwiseAnd (index_column, index_row)
        shift_8 = Constant <value = uint32 {8}> ()
        shift_4 = Constant <value = uint32 {4}> ()
        shift_2 = Constant <value = uint32 {2}> ()
        shift_1 = Constant <value = uint32 {1}> ()
        upper_8 = BitShift <direction = "RIGHT"> (common, shift_8)
        folded_8 = BitwiseXor (common, upper_8)
        upper_4 = BitShift <direction = "RIGHT"> (folded_8, shift_4)
        folded_4 = BitwiseXor (folded_8, upper_4)
        upper_2 = BitShift <direction = "RIGHT"> (folded_4, shift_2)
        folded_2 = BitwiseXor (folded_4, upper_2)
        upper_1 = BitShift <direction = "RIGHT"> (folded_2, shift_1)
        folded_1 = BitwiseXor (folded_2, upper_1)
        odd_integer = BitwiseAnd (folded_1, shift_1)
        odd = Cast <to = 1> (odd_integer)
        centred = Sub (half, odd)
        left = Mul (centred, two_float)
        corner = Concat <axis = 0> (columns, columns)
        right = Slice (left, start, corner)
        split = Concat <axis = 0> (outer, rows, columns)
        tiles = Reshape (x, split)
        by_columns = MatMul (tiles, right)
        by_rows = MatMul (left, by_columns)
        joined = Reshape (by_rows, shape)
        y = Div (joined, norm)
    }
    """,
    # A low-rank adaptor beside a projection: y [..., out] is the projection's output, x [..., in] its input,
    # a [rank, in], b [out, rank] -> z [..., out] = y + scale * b a x.
    """
    LoRA <scale: float> (y, x, a, b) => (z) {
        factor = Constant <value_float: float = @scale> ()
        down = CastLike (a, x)
        down_t = Transpose <perm = [1, 0]> (down)
        up = CastLike (b, x)
        up_t = Transpose <perm = [1, 0]> (up)
        narrow = MatMul (x, down_t)
        wide = MatMul (narrow, up_t)
        scaled = Mul (wide, factor)
        z = Add (y, scaled)
    }
    """,
    # The residual connection; x, y -> z, all of one shape.
    """
    Residual (x, y) => (z) {
        z = Add (x, y)
    }
    """,
    # x [B, S, K], tokens int64 [K] -> y [B, S, vocab_size]: x where a token has a logit, minus infinity elsewhere.
    """
    ScatterLogits <vocab_size: int> (x, tokens) => (y) {
        minus_infinity = Constant <value_float = -inf> ()
        width = Constant <value_int: int = @vocab_size> ()
        last = Constant <value_ints = [-1]> ()
        width_1d = Reshape (width, last)
        rows = Shape <start = 0, end = 2> (x)
        shape = Concat <axis = 0> (rows, width_1d)
        empty = Expand (minus_infinity, shape)
        x_shape = Shape (x)
        columns = Expand (tokens, x_shape)
        y = ScatterElements <axis = -1> (empty, columns, x)
    }
    """,
)


@dataclass(frozen=True)
class OpSpec:
    """One op of the vocabulary: its signature and its body."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    function: onnx.FunctionProto


@functools.cache
def vocabulary() -> dict[str, OpSpec]:
    """Op name -> specification, in the order of the bodies above."""
    specs = {}
    for body in _BODIES:
        header = f'<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">\n'
        function = onnx.parser.parse_function(header + body)
        attributes = (*function.attribute, *(a.name for a in function.attribute_proto))
        specs[function.name] = OpSpec(
            function.name, tuple(function.input), tuple(function.output), attributes, function
        )
    return specs
