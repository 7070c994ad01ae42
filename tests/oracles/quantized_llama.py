"""What a checkpoint that Meta quantized computes: from its stored tensors, in float64, in as few lines as it takes.

Written from the papers and Meta's loaders (``exporter/checkpoint/prequantized.py`` names them), not from the graph:
activations are not rounded, and nothing is cached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fixtures.models import TinySpec
from tests.fixtures.prequantized import decoded_tensors, hadamard_matrix

Floats = npt.NDArray[np.float64]


def logits(spec: TinySpec, token_ids: list[int]) -> Floats:
    """Logits at every position, ``[n_tokens, vocab_size]``."""
    tensors = decoded_tensors(spec)
    n, heads, width = len(token_ids), spec.n_heads, spec.head_dim

    def norm(x: Floats, name: str) -> Floats:
        root = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + spec.norm_eps)
        found: Floats = x / root * tensors[name]
        return found

    def project(x: Floats, name: str) -> Floats:
        y: Floats = x @ tensors[f"{name}.weight"].T
        if spec.lora_rank:
            down, up = (tensors[f"{name}.adaptor.{kind}.weight"] for kind in ("A", "B"))
            y += spec.lora_scale * (x @ down.T @ up.T)
        return y

    def rotated(x: Floats) -> Floats:
        turns = np.arange(n)[:, None] * spec.rope_theta ** (-np.arange(0, width, 2) / width)
        pairs = x.reshape(n, -1, width // 2, 2) @ np.array([[1], [1j]])  # a pair is a complex number
        turned = pairs[..., 0] * np.exp(1j * turns)[:, None]
        return np.stack((turned.real, turned.imag), axis=-1).reshape(n, -1, width)

    h: Floats = tensors["tok_embeddings.weight"][token_ids]
    future = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(spec.n_layers):
        at = f"layers.{i}.attention"
        x = norm(h, f"{at}_norm.weight")
        q, k = rotated(project(x, f"{at}.wq")), rotated(project(x, f"{at}.wk"))
        v = project(x, f"{at}.wv").reshape(n, -1, width)
        k, v = (np.repeat(part, heads // spec.n_kv_heads, axis=1) for part in (k, v))
        scores: Any = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(width) + future
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        h = h + project(np.einsum("hij,jhd->ihd", shares, v).reshape(n, -1), f"{at}.wo")
        at = f"layers.{i}.feed_forward"
        x = norm(h, f"layers.{i}.ffn_norm.weight")
        gate = project(x, f"{at}.w1")
        hidden = gate / (1 + np.exp(-gate)) * project(x, f"{at}.w3")
        if spec.ffn_hadamard:
            hidden = hidden @ hadamard_matrix(spec.ffn_dim)
        h = h + project(hidden, f"{at}.w2")
    result: Floats = norm(h, "norm.weight") @ tensors["output.weight"].T
    return result
