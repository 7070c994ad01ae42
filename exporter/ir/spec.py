"""What every op of the graph means, written down once as an ONNX function.

A body is the op's specification: standard opset-23 ops and nothing else, so that a saved graph opens in
Netron and *runs in ONNX Runtime as it is*. That runtime is the second, independent oracle for the torch
interpreter (``tests/ir/test_interpreter.py``). Weights may be stored in any float type; the arithmetic is
float32. Sources of the standard ops: ONNX operator specification, opset 23
(https://onnx.ai/onnx/operators/), of the model: Touvron et al. 2023 (arXiv 2302.13971), of the rotary
embedding: Su et al. 2021 (arXiv 2104.09864), of SwiGLU: Shazeer 2020 (arXiv 2002.05202).

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
