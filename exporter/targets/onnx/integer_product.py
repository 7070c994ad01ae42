"""Products with 8-bit weights in integer arithmetic that keep the activations' precision.

WebAssembly multiplies 8-bit integers as fast as it multiplies floats, but has no kernel for ``MatMulNBits``, which it
unpacks anew in every step. The customary way to integers, ``DynamicQuantizeLinear``, rounds the activations to one byte
with one scale for all tokens. Here each token has its own scale, and what the first byte rounds away becomes a second
one: two planes of integers, which one ``MatMulInteger`` multiplies with weights that it reads once.

The integers stay within 7 bits: x86 processors without VNNI add two products of a byte and a signed byte in 16 bits,
and 255 * 127 * 2 is more than those hold (``docs/onnx.md`` has the measurements).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.targets.onnx.emit import Emitter

F32, U8, I32 = ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT32

LEVELS = 63
"""Integers of a plane go from -63 to 63, stored around :data:`ZERO`."""
ZERO = 64
FINER = 2 * LEVELS
"""The second plane holds halves of a step of the first: its step is so many times smaller."""


@dataclass(frozen=True)
class Planes:
    """Activations ``[n, width]`` as integers.

    Attributes:
        integers: uint8 ``[2, n, width]``.
        steps: float32 ``[2, n, 1]``: what one unit of each is worth.
    """

    integers: ir.Value
    steps: ir.Value


def planes(emitter: Emitter, x: ir.Value, width: int) -> Planes:
    """``x [n, width]`` in two planes; made once, however many matrices it is multiplied with."""
    name = f"{x.name}.planes"

    def op(kind: str, part: str, *inputs: ir.Value, dtype: ir.DataType = F32, **attributes: int) -> ir.Value:
        return emitter.shared(
            f"{name}.{part}", lambda: emitter.op(kind, *inputs, name=f"{name}.{part}", dtype=dtype, **attributes)
        )

    def number(value: float) -> ir.Value:
        return emitter.constant(f"planes.{value:.6g}", np.float32(value))

    zero, last = emitter.constant("planes.zero", np.uint8(ZERO)), emitter.constant("last_axis", np.array([-1]))
    largest = op("ReduceMax", "largest", op("Abs", "magnitude", x), last, keepdims=1)
    # A token of zeros needs a step as well.
    step = op("Max", "step", op("Mul", "exact_step", largest, number(1 / LEVELS)), number(1e-30))
    units = op("Div", "units", x, step)
    first = op("QuantizeLinear", "first", units, number(1), zero, dtype=U8)
    rest = op("Sub", "rest", units, op("DequantizeLinear", "rounded", first, number(1), zero))
    second = op("QuantizeLinear", "second", rest, number(1 / FINER), zero, dtype=U8)
    both = op("Concat", "both", first, second, dtype=U8, axis=0)
    shape = emitter.constant(f"planes.shape_{width}", np.array([2, -1, width]))
    worth = emitter.constant("planes.worth", np.array([1, 1 / FINER], np.float32).reshape(2, 1, 1))
    return Planes(op("Reshape", "integers", both, shape, dtype=U8), op("Mul", "steps", worth, step))


def product(emitter: Emitter, x: Planes, weight: ir.Value, scales: ir.Value, name: str) -> ir.Value:
    """``x`` times int8 ``weight [in, out]``, float32 ``[n, out]``.

    Args:
        emitter: The graph under construction.
        x: The activations.
        weight: Integers.
        scales: float32 ``[out]``.
        name: Of the result.
    """
    zero = emitter.constant("planes.zero", np.uint8(ZERO))
    sums = emitter.op("MatMulInteger", x.integers, weight, zero, name=f"{name}.sums", dtype=I32)
    parts = emitter.op("Mul", emitter.cast(sums, F32), x.steps, name=f"{name}.parts", dtype=F32)
    axis = emitter.constant("axis_0", np.array([0]))
    whole = emitter.op("ReduceSum", parts, axis, name=f"{name}.whole", dtype=F32, keepdims=0)
    return emitter.op("Mul", whole, scales, name=name, dtype=F32)
