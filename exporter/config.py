"""What a Llama is: the numbers that, together with the weights, define the function.

The parsers for the three formats live beside their readers (``exporter/checkpoint``); this file knows no format.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies of a model differ from ``rope_theta ** (-2i / head_dim)``.

    Attributes:
        kind: ``"llama3"`` (Llama 3.1's piecewise scaling), ``"linear"`` (all divided by ``factor``) or
            ``"factors"`` (a stored divisor per frequency whose formula is unknown).
        factor: Divisor of the low frequencies (llama3) or of all (linear).
        low_freq_factor: llama3 only. Wavelengths above ``original_max_seq_len / low_freq_factor`` are divided.
        high_freq_factor: llama3 only. Wavelengths below ``original_max_seq_len / high_freq_factor`` are kept.
        original_max_seq_len: llama3 only. Context length before scaling, in tokens.
        factors: ``"factors"`` only. One divisor per rotary frequency, length ``head_dim // 2``.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters of one Llama-architecture model.

    Attributes:
        dim: Width of the residual stream.
        n_layers: Number of transformer blocks.
        n_heads: Query heads.
        n_kv_heads: Key/value heads; divides ``n_heads``.
        head_dim: Width of one head; not always ``dim // n_heads``.
        ffn_dim: Width of the SwiGLU hidden layer.
        vocab_size: Rows of the embedding.
        norm_eps: Epsilon of every RMSNorm.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: Deviation from the plain frequencies, if any.
        max_seq_len: Longest context the model was made for, in tokens.
        tied_embeddings: Whether the head is the embedding. ``None`` while unknown: Meta's files carry
            ``output.weight`` even when it is a copy, and opening a checkpoint reads no weights.
        kept_tokens: The tokens that have a row in the head, ascending; every other token's logit is minus infinity.
            ``None``: all tokens have one. A head of some rows is never tied.
        ffn_hadamard: Whether a Hadamard transform precedes the feed-forward layer's last projection, ``w2``
            (R4 of SpinQuant, Liu et al. 2024, arXiv 2405.16406).
        lora_rank: Rank of the low-rank adaptor beside every projection of every layer; 0 if there are none
            (Hu et al. 2021, arXiv 2106.09685).
        lora_scale: What the adaptors' outputs are multiplied by; 0 if there are none.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    max_seq_len: int
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool | None = None
    kept_tokens: tuple[int, ...] | None = None
    ffn_hadamard: bool = False
    lora_rank: int = 0
    lora_scale: float = 0.0

    @property
    def head_rows(self) -> int:
        """Rows of an untied head."""
        return self.vocab_size if self.kept_tokens is None else len(self.kept_tokens)

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ModelConfig:
        scaling = data.get("rope_scaling")
        if scaling is not None:
            scaling = RopeScaling(**{**scaling, "factors": tuple(scaling.get("factors", ()))})
        kept = data.get("kept_tokens")
        kept = None if kept is None else tuple(kept)
        return ModelConfig(**{**data, "rope_scaling": scaling, "kept_tokens": kept})
