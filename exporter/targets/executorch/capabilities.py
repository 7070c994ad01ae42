"""What the ExecuTorch target can do: its quantization names, by backend, and how closely each must agree.

XNNPACK multiplies 8-bit weights with one scale a row, and 4-bit weights with one for each group of a multiple of 32.
Activations are rounded to 8 bits when it runs, with a scale and a zero point a token: always for 4-bit weights, by
choice for 8-bit ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

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
    Scheme,
    WeightType,
    by_name,
)
from exporter.targets.base import Quant
from exporter.targets.half import MAX_HALF, RESIDUAL_HEADROOM

INT4_RECIPE = Recipe(
    "int4, rows of int8",
    (
        Rule(frozenset({NORM}), ir.DataType.FLOAT),
        Rule(frozenset({EMBEDDING, HEAD}), INT8_ROWS),
        Rule(frozenset({LINEAR}), INT4),
    ),
)
"""The portable integers in every layer. XNNPACK has no kernel for the portable 8-bit groups of embedding and head."""


def _four(size: int, name: str) -> WeightType:
    """bfloat16 scales; an embedding that is the head too has float16 scales besides (``weights.int4_table``)."""
    return WeightType(name, 4 + 16 / size, size, INT4.in_groups(size), tied_bits=4 + 32 / size)


TYPES = by_name(
    _four(32, "int4"),
    _four(64, "int4-g64"),
    _four(128, "int4-g128"),
    WeightType("int8_rows", 8, scheme=INT8_ROWS, row_bytes=4),
)
"""What XNNPACK multiplies, and the embedding kernels look up."""


@dataclass(frozen=True)
class ExecuTorchQuant(Quant):
    """A capability row of this target.

    Attributes:
        recipe: What its weights follow.
        rounds: Whether activations are rounded to 8 bits where 8-bit matrices multiply many tokens; where 4-bit ones
            do they always are, and where the head does they never are.
        backend: Of :data:`exporter.targets.executorch.backends.BACKENDS`.
        half: Whether it computes in float16, the residual stream included.
    """

    recipe: Recipe = PORTABLE_RECIPES["f32"]
    rounds: bool = True
    backend: str = "xnnpack"
    half: bool = False

    def rounds_inputs(self, scheme: Scheme, *, head: bool) -> bool:
        return self.backend == "xnnpack" and (scheme.bits == 4 or (self.rounds and not head))


QUANTS: dict[str, ExecuTorchQuant] = {
    quant.name: quant
    for quant in (
        ExecuTorchQuant("f32", "float32, exact for every source", True, 1e-8, 0.0, 2e-4),
        ExecuTorchQuant(
            "int8", "8-bit integers, one scale a row (8da8w)", False, 1e-1, 0.1, recipe=INT8_ROWS_RECIPE
        ),
        ExecuTorchQuant(
            "int8w", "8-bit integers, one scale a row, weights only: closer, and slower to read a prompt", False,
            1e-8, 0.1, 2e-4, recipe=INT8_ROWS_RECIPE, rounds=False,
        ),
        ExecuTorchQuant(
            "int4", "layers of portable 4-bit integers, group 32 (8da4w); embedding and head 8-bit, one scale a row",
            False, 1e-1, 0.4, recipe=INT4_RECIPE, calibrated=True, types=TYPES,
        ),
    )
}  # fmt: skip


_portable = partial(ExecuTorchQuant, backend="portable")
_HALF: dict[str, Any] = {"half": True, "max_activation": MAX_HALF, "residual_headroom": RESIDUAL_HEADROOM}
_coreml = partial(ExecuTorchQuant, backend="coreml")
_vulkan = partial(ExecuTorchQuant, backend="vulkan")

INT4_EVERYWHERE = Recipe(
    "int4 everywhere",
    (Rule(frozenset({NORM}), ir.DataType.FLOAT), Rule(frozenset({EMBEDDING, HEAD, LINEAR}), INT4)),
)
"""The portable 4-bit integers, in embedding and head as well: Vulkan has no kernel for 8-bit weights alone."""

ROWS: dict[str, dict[str, ExecuTorchQuant]] = {
    "xnnpack": QUANTS,
    "portable": {
        quant.name: quant
        for quant in (
            _portable("f32", "float32, exact for every source", True, 1e-8, 0.0, 2e-4),
            _portable(
                "bf16", "bfloat16 matrices, multiplied as such; norms and residuals float32", True, 5e-3, 2**-8,
                recipe=PORTABLE_RECIPES["bf16"],
            ),
            _portable(
                "int8", "portable 8-bit integers, group 32, weights only", True, 1e-8, 0.025, 2e-4,
                recipe=PORTABLE_RECIPES["int8"],
            ),
            _portable(
                "int8w", "8-bit integers, one scale a row, weights only", False, 1e-8, 0.1, 2e-4,
                recipe=INT8_ROWS_RECIPE,
            ),
        )
    },
    "coreml": {
        quant.name: quant
        for quant in (
            _coreml("f32", "float32, for CPU and GPU", True, 1e-8, 0.0, 2e-4),
            _coreml(
                "f16", "float16 throughout, for the Neural Engine too", True, 1e-3, 2**-10,
                recipe=PORTABLE_RECIPES["f16"], **_HALF,
            ),
            _coreml(
                "int8", "portable 8-bit integers, group 32, float16 arithmetic", True, 1e-3, 0.025,
                recipe=PORTABLE_RECIPES["int8"], **_HALF,
            ),
            _coreml(
                "int4", "portable 4-bit integers, group 32; embedding and head int8; float16 arithmetic", True,
                1e-3, 0.4, recipe=PORTABLE_RECIPES["int4"], **_HALF,
            ),
        )
    },
    "vulkan": {
        quant.name: quant
        for quant in (
            _vulkan("f32", "float32", True, 1e-8, 0.0, 2e-4),
            _vulkan(
                "f16", "float16 throughout", True, 1e-8, 2**-10, 2e-4, recipe=PORTABLE_RECIPES["f16"], **_HALF
            ),
            _vulkan(
                "int4", "portable 4-bit integers, group 32, everywhere; float16 arithmetic", False, 1e-8, 0.4, 2e-4,
                recipe=INT4_EVERYWHERE, **_HALF,
            ),
        )
    },
}  # fmt: skip
"""Backend -> its rows. The gates of coreml and vulkan are on the graph before it is lowered, in torch: Core ML's
float16 rows are float16 there, Vulkan's float32."""

REFUSED: dict[tuple[str, str], str] = {
    ("portable", "int4"): "no kernel of every runtime multiplies 4-bit integers: torchao's "
    "(torchao::_linear_8bit_act_4bit_weight) is in the Swift package alone; take int8, or --backend xnnpack",
    ("coreml", "bf16"): "Core ML has no bfloat16; take f16",
    ("coreml", "int8w"): "take int8: it rounds no activation here",
    ("vulkan", "bf16"): "Vulkan's delegate has no bfloat16; take f16",
    (
        "vulkan",
        "int8",
    ): "its delegate multiplies 8-bit weights only with activations of a fixed scale; take int4 or f16",
    ("vulkan", "int8w"): "its delegate has no product of 8-bit weights alone; take int4 or f16",
    ("portable", "f16"): "float16 ends at 65504, which a Llama's residual stream may exceed; take bf16",
}
"""Backend and row that one would look for -> why it is not there."""

ALIASES = {"fp32": "f32", "8da8w": "int8", "8da4w": "int4"}
"""executorch's names of the rows."""
