"""Compiled encoders of ggml's block formats, one file per family, bit-identical to ggml's reference.

``ENCODERS`` maps ggml's type names to functions ``(x, out)`` that fill ``out: uint8 [n_bytes]`` from the contiguous
``x: float32 [n_weights]``; blocks never cross a row, so rows follow each other without a gap. Weights are finite.
``WIDENERS`` maps numpy's names of float types to functions ``(x [n], out: float32 [n])``.
Importing this package imports numba; the machine code is compiled on first use and cached on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from exporter.targets.gguf.kernels import weighted_blocks, weighted_k
from exporter.targets.gguf.kernels.floats import (
    Bytes,
    Floats,
    narrow_bfloat16,
    narrow_float16,
    widen_bfloat16,
    widen_float16,
)
from exporter.targets.gguf.kernels.q4_0 import quantize_q4_0, quantize_q5_0
from exporter.targets.gguf.kernels.q4_1 import quantize_q4_1, quantize_q5_1
from exporter.targets.gguf.kernels.q4_k import quantize_q4_k
from exporter.targets.gguf.kernels.q5_k import quantize_q5_k
from exporter.targets.gguf.kernels.q6_k import quantize_q6_k
from exporter.targets.gguf.kernels.q8_0 import quantize_q8_0

WeightedEncoder = Callable[[Floats, Floats, Bytes], None]
Encoder = Callable[[Floats, Bytes], None]
Widener = Callable[[Any, Floats], None]


def _copy(x: Floats, out: Floats) -> None:
    out[:] = x


WIDENERS: Mapping[str, Widener] = {
    "float32": _copy,
    "float16": lambda x, out: widen_float16(x.view(np.uint16), out),
    "bfloat16": lambda x, out: widen_bfloat16(x.view(np.uint16), out),
}

ENCODERS: Mapping[str, Encoder] = {
    "F32": lambda x, out: _copy(x, out.view(np.float32)),
    "F16": lambda x, out: narrow_float16(x, out.view(np.uint16)),
    "BF16": lambda x, out: narrow_bfloat16(x, out.view(np.uint16)),
    "Q4_0": quantize_q4_0,
    "Q4_1": quantize_q4_1,
    "Q5_0": quantize_q5_0,
    "Q5_1": quantize_q5_1,
    "Q8_0": quantize_q8_0,
    "Q4_K": quantize_q4_k,
    "Q5_K": quantize_q5_k,
    "Q6_K": quantize_q6_k,
}

WEIGHTED_ENCODERS: Mapping[str, WeightedEncoder] = {
    "Q4_0": weighted_blocks.quantize_q4_0,
    "Q4_1": weighted_blocks.quantize_q4_1,
    "Q5_0": weighted_blocks.quantize_q5_0,
    "Q5_1": weighted_blocks.quantize_q5_1,
    "Q4_K": weighted_k.quantize_q4_k,
    "Q5_K": weighted_k.quantize_q5_k,
    "Q6_K": weighted_k.quantize_q6_k,
}
"""The same for types whose search minds how much each column matters: functions ``(x, importance [k], out)``."""
