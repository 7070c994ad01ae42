"""What the ExecuTorch target can do: its quantization names, and how closely each must agree.

XNNPACK multiplies 8-bit weights with one scale a row, and 4-bit weights with one for each group of a multiple of 32;
activations are rounded to 8 bits, with a scale and a zero point a token, when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporter.quant.schemes import (
    EMBEDDING,
    HEAD,
    INT4,
    INT8_ROWS,
    INT8_ROWS_RECIPE,
    LINEAR,
    NORM,
    PORTABLE_RECIPES,
    Recipe,
    Rule,
)
from exporter.targets.base import Quant

INT4_RECIPE = Recipe(
    "int4, rows of int8",
    (
        Rule(frozenset({NORM}), ir.DataType.FLOAT),
        Rule(frozenset({EMBEDDING, HEAD}), INT8_ROWS),
        Rule(frozenset({LINEAR}), INT4),
    ),
)
"""The portable integers in every layer. XNNPACK has no kernel for the portable 8-bit groups of embedding and head."""


@dataclass(frozen=True)
class ExecuTorchQuant(Quant):
    """A capability row of this target.

    Attributes:
        recipe: What its weights follow.
    """

    recipe: Recipe = PORTABLE_RECIPES["f32"]


QUANTS: dict[str, ExecuTorchQuant] = {
    quant.name: quant
    for quant in (
        ExecuTorchQuant("f32", "float32, exact for every source", True, 1e-8, 0.0, 2e-4),
        ExecuTorchQuant(
            "int8", "8-bit integers, one scale a row (8da8w)", False, 1e-1, 0.1, recipe=INT8_ROWS_RECIPE
        ),
        ExecuTorchQuant(
            "int4", "layers of portable 4-bit integers, group 32 (8da4w); embedding and head 8-bit, one scale a row",
            False, 1e-1, 0.4, recipe=INT4_RECIPE,
        ),
    )
}  # fmt: skip

ALIASES = {"fp32": "f32", "8da8w": "int8", "8da4w": "int4"}
"""executorch's names of the rows."""
