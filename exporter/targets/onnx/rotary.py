"""The table of cosines and sines that ``GroupQueryAttention`` rotates by."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.config import ModelConfig
from exporter.rope import rotary_rows
from exporter.targets.onnx.weights import Weight, float_weight
from exporter.tensors import RowTensor

CONTEXT = 16384
"""Positions in the table at most. Llama 3.2's 131,072 would take 34 MB, and the cache of a 1B is 1 GiB at this length:
a quarter of what wasm can address."""


def context_length(config: ModelConfig) -> int:
    """Positions that an exported model has, in tokens: the model's own, or what the table holds."""
    return min(config.max_seq_len, CONTEXT)


def rotary_tables(frequencies: RowTensor, config: ModelConfig, dtype: ir.DataType) -> tuple[Weight, Weight]:
    """``cos_cache`` and ``sin_cache``, ``[positions, head_dim / 2]``."""
    inv_freq = frequencies.rows_f32(0, frequencies.n_rows)
    shape = (context_length(config), len(inv_freq))

    def table(name: str, function: np.ufunc) -> Weight:
        rows = RowTensor(name, ir.DataType.FLOAT, shape, lambda a, b: rotary_rows(inv_freq, function, a, b))
        return float_weight(name, [rows], dtype)

    return table("cos_cache", np.cos), table("sin_cache", np.sin)
