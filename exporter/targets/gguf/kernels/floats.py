"""Conversions between the float types of a file, and the writing of small numbers into blocks (little endian)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.simd.functions import bits_of, float_of, jit

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]


SUBNORMAL_SHIFTER = np.uint32(126 << 23)
"""Bits of 0.5, whose last mantissa bit weighs 2**-24: what the last bit of a float16 subnormal weighs."""


@jit
def float16_bits(value: np.float32) -> Any:
    """The IEEE binary16 nearest to a number that is not NaN, ties to even, as its bits.

    Spelled out because LLVM's own conversion needs a library call on processors without F16C.
    """
    bits = bits_of(value)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    rounded = (magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
    normal = min(rounded - np.uint32((127 - 15) << 10), np.uint32(0x7C00))
    subnormal = bits_of(float_of(magnitude) + float_of(SUBNORMAL_SHIFTER)) - SUBNORMAL_SHIFTER
    chosen = subnormal if magnitude < np.uint32((127 - 14) << 23) else normal
    return chosen | ((bits >> np.uint32(16)) & np.uint32(0x8000))


@jit
def float16_value(bits: np.uint32) -> Any:
    """The float32 that an IEEE binary16 stands for."""
    exponent_and_mantissa = (np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13)
    rebias = np.uint32((127 - 15) << 23)
    normal = exponent_and_mantissa + rebias
    special = normal + rebias  # infinity and NaN keep the highest exponent
    smallest = np.uint32((127 - 14) << 23)
    subnormal = bits_of(float_of(exponent_and_mantissa + smallest) - float_of(smallest))
    chosen = special if normal >= np.uint32((127 + 16) << 23) else normal
    chosen = subnormal if exponent_and_mantissa < np.uint32(1 << 23) else chosen
    return float_of(chosen | (np.uint32(bits) & np.uint32(0x8000)) << np.uint32(16))


@jit
def widen_bfloat16(source: Halves, out: Floats) -> None:
    """bfloat16 bits to float32: a shift."""
    bits = out.view(np.uint32)
    for i in range(len(source)):
        bits[i] = np.uint32(source[i]) << np.uint32(16)


@jit
def widen_float16(source: Halves, out: Floats) -> None:
    """float16 bits to float32, exact."""
    for i in range(len(source)):
        out[i] = float16_value(source[i])


@jit
def narrow_float16(source: Floats, out: Halves) -> None:
    """float32 to the bits of the nearest float16, ties to even."""
    for i in range(len(source)):
        out[i] = float16_bits(source[i])


@jit
def narrow_bfloat16(source: Floats, out: Halves) -> None:
    """Finite float32 to the bits of the nearest bfloat16, ties to even.

    Source: llama.cpp ``ggml/src/ggml-impl.h`` (``ggml_compute_fp32_to_bf16``).
    """
    bits = source.view(np.uint32)
    for i in range(len(source)):
        out[i] = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@jit
def largest_magnitude(source: Floats) -> Any:
    """The largest ``|x|`` as float32; NaN or infinity if there is one among them."""
    bits = source.view(np.uint32)
    top = np.uint32(0)  # the bits of non-negative floats are ordered as the floats are, NaN last
    for i in range(len(source)):
        top = max(top, bits[i] & np.uint32(0x7FFFFFFF))
    return float_of(top)


@jit
def put_uint16(out: Bytes, at: int, value: int) -> None:
    """Store a 16-bit integer."""
    out[at] = value & 0xFF
    out[at + 1] = value >> 8


@jit
def put_uint32(out: Bytes, at: int, value: int) -> None:
    """Store a 32-bit integer."""
    put_uint16(out, at, value & 0xFFFF)
    put_uint16(out, at + 2, value >> 16)


@jit
def put_float16(out: Bytes, at: int, value: np.float32) -> None:
    """Store a number rounded to float16, ties to even."""
    put_uint16(out, at, float16_bits(value))
