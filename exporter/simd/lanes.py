"""A vector of float32 lanes as a numba type, so that a kernel reads like the scalar algorithm it vectorises.

``+ - * /`` and comparisons act per lane; a plain number stands for a vector of equal lanes, rounded to float32.
Each lane performs exactly the IEEE operations that are written, in that order: no operation carries a fast-math
flag, so LLVM neither reassociates nor fuses them. That is what makes the encodings bit-identical to ggml's
scalar code, which an automatic vectorisation of its sums cannot be.

LLVM splits a vector that is wider than the machine's registers: the same kernel serves AVX-512, AVX2 and NEON.
``functions.py`` has the functions on these vectors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, models, register_model, type_callable

I1, I8, I32 = (ir.IntType(width) for width in (1, 8, 32))
F32 = ir.FloatType()


class Lanes(types.Type):
    """Some values of one LLVM type in a register."""

    element: ir.Type

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"{type(self).__name__}x{lanes}")


class Vector(Lanes):
    """``lanes`` float32 numbers."""

    element = F32


class Mask(Lanes):
    """``lanes`` truth values, the result of a comparison."""

    element = I1


@register_model(Vector)
@register_model(Mask)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(kind.element, kind.lanes))  # type: ignore[no-untyped-call]


def common_lanes(kinds: Sequence[Any]) -> int | None:
    """How many lanes the vectors among ``kinds`` have; None unless all are vectors of one size or numbers."""
    lanes = {kind.lanes for kind in kinds if isinstance(kind, Vector)}
    fits = all(isinstance(kind, Vector | types.Number) for kind in kinds)
    return lanes.pop() if fits and len(lanes) == 1 else None


def splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """The instructions that repeat ``scalar``."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), None))


def as_vectors(context: Any, builder: ir.IRBuilder, lanes: int, kinds: Any, values: Any) -> list[ir.Value]:
    """The operands of one operation, numbers repeated to ``lanes``."""
    return [
        value if isinstance(kind, Vector) else splat(builder, context.cast(builder, value, kind, types.float32), lanes)
        for kind, value in zip(kinds, values, strict=True)
    ]


def _register(symbol: Any, typer: Callable[..., Lanes | None], emit: Callable[..., ir.Value], *overloads: Any) -> None:
    """Teach numba an operator: ``typer`` gives its result type (None: not ours), ``emit`` its instructions."""
    type_callable(symbol)(lambda _context: typer)
    for kinds in overloads:
        lower_builtin(symbol, *kinds)(emit)  # type: ignore[no-untyped-call]


def _register_binary(symbol: Any, instruction: Callable[..., ir.Value], result: type[Lanes]) -> None:
    def typer(left: Any, right: Any) -> Lanes | None:
        lanes = common_lanes((left, right))
        return None if lanes is None else result(lanes)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        lanes = signature.return_type.lanes
        return instruction(builder, *as_vectors(context, builder, lanes, signature.args, values))

    _register(symbol, typer, emit, (Vector, Vector), (Vector, types.Number), (types.Number, Vector))


def _register_comparison(symbol: Any, sign: str) -> None:
    _register_binary(symbol, lambda builder, left, right: builder.fcmp_ordered(sign, left, right), Mask)


_register_binary(operator.add, ir.IRBuilder.fadd, Vector)
_register_binary(operator.sub, ir.IRBuilder.fsub, Vector)
_register_binary(operator.mul, ir.IRBuilder.fmul, Vector)
_register_binary(operator.truediv, ir.IRBuilder.fdiv, Vector)
_register_comparison(operator.lt, "<")
_register_comparison(operator.gt, ">")
_register_comparison(operator.ge, ">=")
_register_comparison(operator.eq, "==")
_register(
    operator.and_,
    lambda left, right: left if isinstance(left, Mask) and left == right else None,
    lambda _context, builder, _signature, values: builder.and_(*values),
    (Mask, Mask),
)
