"""What is quantized how: schemes (one tensor) and recipes (a whole model), as data.

How the integers are chosen is ``exporter/quant/rounding``; where their bits go is each target's packing.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Scheme:
    """Symmetric block quantization of a matrix ``[out, in]`` along ``in``.

    A weight is ``integer * scale``, no zero point. Scales are positive and exact in float16, bfloat16 and
    float32 alike (``rounding/portable.py``), so that every runtime decodes the same weights bit for bit.

    Attributes:
        name: The scheme's name in recipes and manifests.
        bits: Width of one integer.
        group_size: Consecutive columns that share one scale; ``None`` for all of a row.
        qmin: Smallest integer.
        qmax: Largest integer.
    """

    name: str
    bits: int
    group_size: int | None
    qmin: int
    qmax: int

    def block_size(self, n_cols: int) -> int:
        """Columns that share one scale in a matrix of that width."""
        return self.group_size or n_cols

    @property
    def dtype(self) -> ir.DataType:
        return ir.DataType.INT4 if self.bits == 4 else ir.DataType.INT8


INT4 = Scheme("int4", bits=4, group_size=32, qmin=-8, qmax=7)
INT8 = Scheme("int8", bits=8, group_size=32, qmin=-127, qmax=127)
INT8_ROWS = Scheme("int8_rows", bits=8, group_size=None, qmin=-127, qmax=127)

EMBEDDING, HEAD, LINEAR, NORM = "embedding", "head", "linear", "norm"
"""The roles a weight can play; a tied embedding plays two."""

Encoding = Scheme | ir.DataType
"""A weight is either quantized by a scheme or stored in a float type."""


@dataclass(frozen=True)
class Rule:
    """Weights that play one of ``roles`` get ``encoding``."""

    roles: frozenset[str]
    encoding: Encoding


@dataclass(frozen=True)
class Recipe:
    """Ordered rules; the first that names one of a weight's roles decides."""

    name: str
    rules: tuple[Rule, ...]

    def encoding_for(self, roles: frozenset[str]) -> Encoding | None:
        """The encoding of a weight, or ``None`` to leave it as it is stored."""
        return next((rule.encoding for rule in self.rules if rule.roles & roles), None)


def _recipe(name: str, *rules: tuple[tuple[str, ...], Encoding]) -> Recipe:
    return Recipe(name, tuple(Rule(frozenset(roles), encoding) for roles, encoding in rules))


_F32 = ir.DataType.FLOAT
_MATRICES = (EMBEDDING, HEAD, LINEAR)

PORTABLE_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe("f32", ((*_MATRICES, NORM), _F32)),
        _recipe("f16", ((NORM,), _F32), (_MATRICES, ir.DataType.FLOAT16)),
        _recipe("bf16", ((NORM,), _F32), (_MATRICES, ir.DataType.BFLOAT16)),
        _recipe("int8", ((NORM,), _F32), (_MATRICES, INT8)),
        # Meta's own mobile layout (SpinQuant / QLoRA checkpoints): the embedding and the head keep 8 bits.
        _recipe("int4", ((NORM,), _F32), ((EMBEDDING, HEAD), INT8), ((LINEAR,), INT4)),
    )
}
"""Names that mean the same on every target."""

INT8_ROWS_RECIPE = _recipe("int8_rows", ((NORM,), _F32), (_MATRICES, INT8_ROWS))
"""One scale for each output channel: what integer matrix products take."""
