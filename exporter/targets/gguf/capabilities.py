"""What the GGUF target can do: its quantization names, what each one means, and how closely it must agree.

The gates were set from measurements of llama.cpp against the reference (``docs/parity.md``): full-precision
files agree to 1e-5 of the logits' standard deviation; 16-bit and quantized files differ because llama.cpp
rounds the *activations*, and rounding differences grow from layer to layer, so that they are gated on KL. What a
row may lose to rounding is the formats' own worst case, one weight at the end of a block's range and the others
half a step off: ``sqrt(block) * step / 2``. No valid file fails it; permuted rows lose 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.quant.schemes import INT4, INT8, PORTABLE_RECIPES, WeightType, by_name
from exporter.targets.base import Quant
from exporter.targets.gguf import encode


@dataclass(frozen=True)
class GgufQuant(Quant):
    """A capability row of this target.

    Attributes:
        ftype: llama-quantize's name of the file type: what ``general.file_type`` says, and for native
            names also the rules that give each tensor its type.
    """

    ftype: str = ""


def _encoded(name: str) -> WeightType:
    """A type of ggml's, chosen by llama.cpp's quantizer with the importance of the columns."""
    ggml = name.upper()
    block = encode.block_size(ggml)

    def rounded(rows: encode.Floats, importance: encode.Floats) -> encode.Floats:
        return encode.decode_rows(encode.encode_rows(rows, ggml, importance), ggml, rows.shape[1])

    return WeightType(name, 8 * encode.row_nbytes(ggml, block) / block, block, rounded=rounded)


_BETWEEN = tuple(map(_encoded, ("q4_k", "q5_0", "q5_k", "q6_k")))
PORTABLE_TYPES = by_name(
    WeightType("int4", 4.5, encode.GROUP, INT4), *_BETWEEN, WeightType("int8", 8.5, encode.GROUP, INT8)
)
"""Integers chosen in the graph, stored as Q4_0 and Q8_0 blocks, and what llama.cpp has between them."""
NATIVE_TYPES = by_name(_encoded("q4_0"), *_BETWEEN, _encoded("q8_0"))


def _portable(
    name: str,
    ftype: str,
    summary: str,
    max_rounding: float,
    max_kl: float,
    max_abs: float | None = None,
    calibrated: bool = False,
) -> GgufQuant:
    types: Mapping[str, WeightType] = PORTABLE_TYPES if calibrated else {}
    return GgufQuant(
        name,
        summary,
        True,
        max_kl,
        max_rounding,
        max_abs,
        calibrated=calibrated,
        recipe=PORTABLE_RECIPES[name],
        types=types,
        ftype=ftype,
    )


def _native(name: str, summary: str, max_rounding: float, max_kl: float, calibrated: bool = True) -> GgufQuant:
    types: Mapping[str, WeightType] = NATIVE_TYPES if calibrated else {}
    return GgufQuant(name, summary, False, max_kl, max_rounding, calibrated=calibrated, types=types, ftype=name.upper())


QUANTS: dict[str, GgufQuant] = {
    quant.name: quant
    for quant in (
        _portable("f32", "F32", "float32, exact for every source", 0.0, max_kl=1e-8, max_abs=2e-4),
        _portable("f16", "F16", "float16 matrices, float32 norms", 2**-10, max_kl=1e-4),
        _portable("bf16", "BF16", "bfloat16 matrices, float32 norms", 2**-8, max_kl=1e-3),
        _portable("int8", "Q8_0", "portable 8-bit integers, group 32, stored as Q8_0 blocks", 0.025, max_kl=2e-2),
        _portable(
            "int4",
            "Q4_0",
            "portable 4-bit integers, group 32, stored as Q4_0; embedding and head int8",
            0.4,
            max_kl=2e-2,
            calibrated=True,
        ),
        _native("q8_0", "8-bit blocks of 32, llama-quantize's Q8_0", 0.025, max_kl=2e-2, calibrated=False),
        _native("q5_k_m", "5-bit superblocks, 6-bit where it matters", 0.2, max_kl=2e-2),
        _native("q6_k", "6-bit superblocks of 256", 0.1, max_kl=2e-2),
        _native("q4_k_m", "4-bit superblocks, 6-bit where it matters: llama.cpp's usual choice", 0.4, max_kl=2e-2),
        _native("q4_k_s", "4-bit superblocks, 5-bit in the first layers", 0.4, max_kl=2e-2),
        _native("q4_0", "4-bit blocks of 32, llama-quantize's Q4_0", 0.4, max_kl=2e-2),
    )
}
