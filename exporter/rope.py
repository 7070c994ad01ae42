"""Rotary frequencies, and the two orders in which a head's rows can be stored.

Sources: Su et al., *RoFormer* (arXiv 2104.09864); Meta's ``llama_models/llama3/model.py`` (``precompute_freqs_cis``,
``apply_scaling``); transformers' ``modeling_rope_utils.py``; llama.cpp's ``conversion/llama.py``
(``generate_extra_tensors``).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from exporter.config import ModelConfig, RopeScaling

Frequencies = npt.NDArray[np.float32]


def inv_freq(config: ModelConfig) -> Frequencies:
    """Radians per position of each rotary pair, float32 ``[head_dim // 2]``.

    The steps and their float32 roundings are those of ``LlamaRotaryEmbedding``. Only the power is taken in
    float64 and rounded once, so that every machine computes the same bits; PyTorch's own float32 power is off
    by at most one unit in the last place, and for Llama 3's shapes by none.
    """
    plain = _plain(config.head_dim, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor)
    if scaling.kind == "factors":
        divisors: Frequencies = np.array(scaling.factors, np.float32)
        return plain / divisors
    blend = _blend(plain, scaling)
    factor = np.float32(scaling.factor)
    smoothed = (1 - blend) * plain / factor + blend * plain
    return np.where(blend >= 1, plain, np.where(blend <= 0, plain / factor, smoothed))


def freq_factors(config: ModelConfig) -> Frequencies | None:
    """What GGUF stores as ``rope_freqs.weight``: the divisor of each plain frequency, float32 ``[head_dim // 2]``.

    ``None`` without scaling and for linear scaling, which GGUF expresses as metadata.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "linear":
        return None
    if scaling.kind == "factors":
        return np.array(scaling.factors, np.float32)
    blend = _blend(_plain(config.head_dim, config.rope_theta), scaling)
    factor = np.float32(scaling.factor)
    between = 1 / ((1 - blend) / factor + blend)
    return np.where(blend >= 1, np.float32(1), np.where(blend <= 0, factor, between))


def interleaved_from_half(n_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Row index that turns Hugging Face's order into the canonical one, ``[n_heads * head_dim]``.

    Hugging Face rotates row ``i`` of a head with row ``i + head_dim / 2``; Meta and GGUF (architecture ``llama``)
    rotate row ``2i`` with row ``2i + 1``. Canonical row ``r`` is Hugging Face's row ``index[r]``.
    """
    rows = np.arange(n_heads * head_dim, dtype=np.intp).reshape(n_heads, 2, head_dim // 2)
    return rows.swapaxes(1, 2).reshape(-1)


def half_from_interleaved(n_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """The inverse of :func:`interleaved_from_half`: Hugging Face's row ``r`` is canonical row ``index[r]``."""
    rows = np.arange(n_heads * head_dim, dtype=np.intp).reshape(n_heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _plain(head_dim: int, theta: float) -> Frequencies:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    powers = np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
    return np.reciprocal(powers)


def _blend(plain: Frequencies, scaling: RopeScaling) -> Frequencies:
    """llama3: 1 and above where a frequency is kept, 0 and below where it is divided by the factor."""
    # Reciprocal first, then the product: so PyTorch divides a scalar by a tensor, and the bits should agree.
    wavelength = np.reciprocal(plain) * np.float32(2 * math.pi)
    turns = np.reciprocal(wavelength) * np.float32(scaling.original_max_seq_len)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    return (turns - low) / (high - low)


def rotary_rows(frequencies: Frequencies, function: np.ufunc, start: int, stop: int) -> Frequencies:
    """Cosines or sines of positions ``start`` to ``stop``, float32 ``[stop - start, head_dim / 2]``.

    The angle is a float32 product, as in the reference; its cosine is taken in float64 and rounded once.
    """
    angles = np.arange(start, stop, dtype=np.float32)[:, None] * frequencies
    rows: Frequencies = function(angles.astype(np.float64)).astype(np.float32)
    return rows
