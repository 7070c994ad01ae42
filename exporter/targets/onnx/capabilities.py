"""What the ONNX target can do: its quantization names, the file each one makes, and how closely it must agree.

File names are Transformers.js' (``DEFAULT_DTYPE_SUFFIX_MAPPING`` in its ``utils/dtypes.js``), which picks a file by
the ``dtype`` that a page asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from exporter.quant.schemes import (
    HEAD,
    INT4,
    INT8,
    INT8_ROWS_RECIPE,
    LINEAR,
    PORTABLE_RECIPES,
    Recipe,
    WeightType,
    by_name,
)
from exporter.targets.base import Quant
from exporter.targets.half import MAX_HALF, RESIDUAL_HEADROOM


@dataclass(frozen=True)
class OnnxQuant(Quant):
    """A capability row of this target.

    Attributes:
        dtype: Transformers.js' name of the variant, what a page passes as ``dtype``.
        suffix: What its file name has between ``model`` and ``.onnx``.
        recipe: What its weights follow.
        activations: Element type of matrix products, attention and its cache. The residual stream and the norms are
            float32 everywhere: the largest activations of a Llama live there, and float16 ends at 65504.
    """

    dtype: str = "fp32"
    suffix: str = ""
    recipe: Recipe = PORTABLE_RECIPES["f32"]
    activations: ir.DataType = ir.DataType.FLOAT

    @property
    def file_name(self) -> str:
        return f"model{self.suffix}.onnx"


_HALF: dict[str, Any] = {
    "activations": ir.DataType.FLOAT16,
    "max_activation": MAX_HALF,
    "residual_headroom": RESIDUAL_HEADROOM,
}


def _types(scale_bits: int) -> Mapping[str, WeightType]:
    """What ``MatMulNBits`` multiplies; the embedding is gathered as bytes and has 8 bits."""

    def four(size: int, name: str) -> WeightType:
        products = frozenset({LINEAR, HEAD})
        return WeightType(name, 4 + scale_bits / size, size, INT4.in_groups(size), roles=products)

    eight = WeightType("int8", 8 + scale_bits / 32, 32, INT8)
    return by_name(four(32, "int4"), four(64, "int4-g64"), four(128, "int4-g128"), eight)


QUANTS: dict[str, OnnxQuant] = {
    quant.name: quant
    for quant in (
        OnnxQuant("f32", "float32, exact for every source", True, 1e-8, 0.0, 2e-4),
        OnnxQuant(
            "f16", "float16 matrices and cache, float32 norms and residuals", True, 1e-4, 2**-10,
            dtype="fp16", suffix="_fp16", recipe=PORTABLE_RECIPES["f16"], **_HALF,
        ),
        OnnxQuant(
            "int8", "portable 8-bit integers, group 32, weights only", True, 1e-2, 0.025,
            dtype="int8", suffix="_int8", recipe=PORTABLE_RECIPES["int8"],
        ),
        OnnxQuant(
            "int4", "portable 4-bit integers, group 32; embedding and head int8", True, 1e-2, 0.4,
            dtype="q4", suffix="_q4", recipe=PORTABLE_RECIPES["int4"], calibrated=True, types=_types(scale_bits=32),
        ),
        OnnxQuant(
            "q4f16", "the integers of int4 with float16 matrix products and cache: for WebGPU", False, 1e-2, 0.4,
            dtype="q4f16", suffix="_q4f16", recipe=PORTABLE_RECIPES["int4"], calibrated=True,
            types=_types(scale_bits=16), **_HALF,
        ),
        OnnxQuant(
            "q8", "8-bit integers, one scale a row, multiplied as integers: for wasm", False, 1e-4, 0.1,
            dtype="q8", suffix="_quantized", recipe=INT8_ROWS_RECIPE,
        ),
    )
}  # fmt: skip

ALIASES = {"fp32": "f32", "fp16": "f16", "q4": "int4"}
"""Transformers.js' names of the rows whose portable name is another."""

WASM_PREFERENCE = ("q8", "int4", "int8", "f32", "q4f16", "f16")
"""The same in WebAssembly, which multiplies q8's integers five to ten times as fast as it unpacks the others."""

PREFERENCE = ("int4", "q8", "int8", "q4f16", "f16", "f32")
"""What a page gets that names no ``dtype``: the first of these that the folder has. Smallest first, but nothing that
needs float16 arithmetic, which not every device has, before something that runs everywhere."""
