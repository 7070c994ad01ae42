"""Functions on float32 vectors inside a kernel: load and store, select, reduce, round (see ``lanes.py``).

Every name here is a numba intrinsic: it exists only in compiled code, where it becomes a few instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from exporter.simd.cache import kernel_cache_folder
from exporter.simd.lanes import F32, I8, I32, Vector, as_vectors, common_lanes, splat

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def jit(function: Kernel) -> Kernel:
    """Compile a kernel on first use, without the GIL, and keep the machine code (see ``cache.py``)."""
    config: Any = numba.config
    shared, config.CACHE_DIR = config.CACHE_DIR, str(kernel_cache_folder())
    try:
        return cast(Kernel, numba.njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)(function))
    finally:
        config.CACHE_DIR = shared


def in_kernel(define: Callable[..., Any]) -> Any:
    """Make a numba intrinsic of ``define(context, *types) -> (signature, emit)``."""
    return intrinsic(define)


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, values: Any, pointee: ir.Type) -> ir.Value:
    """Of a function whose first arguments are an array and an index: the element's address."""
    array, offset = values[:2]
    data = context.make_array(signature.args[0])(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), pointee.as_pointer())


def _load(lanes: int) -> Any:
    def load(_context: Any, array: Any, offset: Any) -> Any:
        """``lanes`` consecutive float32 of a 1-D array, from index ``offset``."""

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            pointer = _pointer(context, builder, signature, values, ir.VectorType(F32, lanes))
            return builder.load(pointer, align=4)

        return Vector(lanes)(array, types.intp), emit

    return in_kernel(load)


load16, load32 = _load(16), _load(32)


@in_kernel
def store(_context: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Write the lanes to a 1-D float32 array, from index ``offset``."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        pointer = _pointer(context, builder, signature, values, values[2].type)
        builder.store(values[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


def _low_byte(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """The lanes truncated to integers, and those to eight bits; negative numbers in two's complement."""
    lanes = vector.type.count
    return builder.trunc(builder.fptosi(vector, ir.VectorType(I32, lanes)), ir.VectorType(I8, lanes))


@in_kernel
def store_bytes(_context: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Write lanes of [-128, 255], truncated to integers, to a 1-D uint8 array."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        integers = _low_byte(builder, values[2])
        pointer = _pointer(context, builder, signature, values, integers.type)
        builder.store(integers, pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@in_kernel
def store_nibbles(_context: Any, array: Any, offset: Any, low: Any, high: Any) -> Any:
    """Write one byte per lane: the low four bits of ``low``'s integer, then those of ``high``'s above them."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        below, above = (_low_byte(builder, vector) for vector in values[2:])
        mask, shift = (ir.Constant(below.type, [number] * below.type.count) for number in (15, 4))
        packed = builder.or_(builder.and_(below, mask), builder.shl(above, shift))
        pointer = _pointer(context, builder, signature, values, packed.type)
        builder.store(packed, pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, low, high), emit


def _half(index: int) -> Any:
    def half(_context: Any, vector: Any) -> Any:
        """The first or the second half of the lanes."""
        lanes = vector.lanes // 2

        def emit(_: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
            (whole,) = values
            lane_numbers = range(index * lanes, (index + 1) * lanes)
            return builder.shuffle_vector(whole, whole, ir.Constant(ir.VectorType(I32, lanes), list(lane_numbers)))

        return Vector(lanes)(vector), emit

    return in_kernel(half)


first_half, second_half = _half(0), _half(1)


def _splat(lanes: int) -> Any:
    def repeat(_context: Any, number: Any) -> Any:
        """``lanes`` times one number, rounded to float32."""

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            return splat(builder, context.cast(builder, values[0], signature.args[0], types.float32), lanes)

        return Vector(lanes)(number), emit

    return in_kernel(repeat)


splat16, splat32 = _splat(16), _splat(32)


@in_kernel
def where(_context: Any, mask: Any, yes: Any, no: Any) -> Any:
    """Per lane ``yes`` where ``mask`` is true, else ``no``; each may be a vector or a number."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        return builder.select(values[0], *as_vectors(context, builder, mask.lanes, signature.args[1:], values[1:]))

    return Vector(mask.lanes)(mask, yes, no), emit


def _extremum(sign: str) -> Any:
    def extremum(_context: Any, left: Any, right: Any) -> Any:
        """Per lane ``left`` where it is the smaller (larger) one, else ``right``; one of the two may be a number."""
        lanes = common_lanes((left, right))

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            a, b = as_vectors(context, builder, signature.return_type.lanes, signature.args, values)
            return builder.select(builder.fcmp_ordered(sign, a, b), a, b)

        return None if lanes is None else (Vector(lanes)(left, right), emit)

    return in_kernel(extremum)


minimum, maximum = _extremum("<"), _extremum(">")


def _reduction(sign: str) -> Any:
    def reduction(_context: Any, vector: Any) -> Any:
        """The smallest (largest) lane, as a scalar; which of several zeros is unspecified."""

        def emit(_: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
            (rest,) = values
            width = vector.lanes
            while width > 1:
                width //= 2
                below, above = (
                    builder.shuffle_vector(rest, rest, ir.Constant(ir.VectorType(I32, width), list(lanes)))
                    for lanes in (range(width), range(width, 2 * width))
                )
                rest = builder.select(builder.fcmp_ordered(sign, below, above), below, above)
            return builder.extract_element(rest, I32(0))

        return types.float32(vector), emit

    return in_kernel(reduction)


smallest, largest = _reduction("<"), _reduction(">")


def _unary(name: str) -> Any:
    def unary(_context: Any, vector: Any) -> Any:
        """LLVM's intrinsic of the same purpose, per lane."""

        def emit(_: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
            (operand,) = values
            function = builder.module.declare_intrinsic(f"{name}.v{vector.lanes}f32", (), _function(operand.type))
            return builder.call(function, values)

        return vector(vector), emit

    return in_kernel(unary)


def _function(kind: ir.Type) -> ir.FunctionType:
    return ir.FunctionType(kind, [kind])


magnitude = _unary("llvm.fabs")
square_root = _unary("llvm.sqrt")
round_half_away = _unary("llvm.round")


@in_kernel
def nearest_int(_context: Any, number: Any) -> Any:
    """The nearest integer of a float32 or of each lane, ties to even, as ggml's ``nearest_int``, whatever the input.

    Adding 1.5 * 2**23 leaves the integer in the low mantissa bits, of which ggml keeps 23 without a look at the
    exponent: beyond 2**22, at infinity and at NaN the result is arbitrary but defined, and tiny blocks get there.
    Here the exponent is put back, so that a float subtraction yields the same integer.
    Source: llama.cpp ``ggml/src/ggml-quants.c``.
    """

    def emit(_: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        (operand,) = values
        kind = operand.type
        integer = ir.VectorType(I32, number.lanes) if isinstance(number, Vector) else I32

        def constant(of: ir.Type, value: float) -> ir.Value:
            return ir.Constant(of, [value] * number.lanes if isinstance(number, Vector) else value)

        shifter = constant(kind, 12582912.0)
        bits = builder.bitcast(builder.fadd(operand, shifter), integer)
        bits = builder.or_(builder.and_(bits, constant(integer, 0x007FFFFF)), constant(integer, 0x4B000000))
        return builder.fsub(builder.bitcast(bits, kind), shifter)

    return number(number), emit


@in_kernel
def lane_bits(_context: Any, mask: Any) -> Any:
    """The truth values as an integer, lane 0 in the lowest bit."""

    def emit(_: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        bits = builder.bitcast(values[0], ir.IntType(mask.lanes))
        return bits if mask.lanes == 32 else builder.zext(bits, I32)

    return types.uint32(mask), emit


@in_kernel
def first_true(_context: Any, mask: Any) -> Any:
    """The number of the first lane that is true; at least one must be."""

    def emit(_: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:
        bits = builder.bitcast(values[0], ir.IntType(mask.lanes))
        return builder.zext(builder.cttz(bits, ir.Constant(ir.IntType(1), 1)), ir.IntType(64))

    return types.int64(mask), emit


@in_kernel
def bits_of(_context: Any, number: Any) -> Any:
    """The bits of a float32."""
    return types.uint32(types.float32), lambda _, builder, _signature, values: builder.bitcast(values[0], I32)


@in_kernel
def float_of(_context: Any, bits: Any) -> Any:
    """The float32 with the given bits."""
    return types.float32(types.uint32), lambda _, builder, _signature, values: builder.bitcast(values[0], F32)
