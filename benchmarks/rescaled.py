"""The same function with other weights: channels rescaled where a norm, ``up`` or ``v`` can absorb it.

The demo model's weights lie on a 4-bit grid already, which flatters every 4-bit quantizer. A rescaled copy computes
the same logits to rounding error, and its weights lie on no grid.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks import CACHE
from exporter.names import name_map
from exporter.rope import half_from_interleaved
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.hf_files import model_config
from exporter.tokenizer import to_hf_json
from scripts.fetch_models import fetch

Weights = dict[str, npt.NDArray[np.float32]]

SEEDS = {0.0: 0, 0.25: 0, 0.5: 1}
"""Sigma -> seed of the copies that benchmarks use; sigma 0 is the demo model itself."""


def label(sigma: float) -> str:
    """The copy's name in a table."""
    return f"rescaled, sigma {sigma}" if sigma else "demo model"


def demo_checkpoint(sigma: float) -> Path:
    """The demo model, rescaled, as a Hugging Face folder that is written once and kept."""
    folder = CACHE / (f"smollm2-sigma-{sigma}" if sigma else "smollm2")
    if not (folder / "tokenizer_config.json").exists():
        source = open_source(str(fetch("smollm2")), SourceOptions())
        write_checkpoint(folder, source, rescale(source, weights_of(source), sigma, SEEDS[sigma]))
    return folder


def weights_of(source: Source) -> Weights:
    """All weights of a small model in float32 under canonical names."""
    return {name: np.array(t.rows_f32(0, t.n_rows)) for name, t in source.checkpoint.tensors.items()}


def rescale(source: Source, weights: Weights, sigma: float, seed: int) -> Weights:
    """Multiply channels by log-normal factors (``sigma`` of the logarithm) and divide where they are consumed."""
    config, rng, out = source.config, np.random.default_rng(seed), dict(weights)

    def factors(n: int) -> npt.NDArray[np.float32]:
        return np.exp(rng.standard_normal(n) * sigma).astype(np.float32)

    for layer in range(config.n_layers):
        p = f"layers.{layer}"
        for norm, users in (
            ("attention_norm", ("attention.wq", "attention.wk", "attention.wv")),
            ("ffn_norm", ("feed_forward.w1", "feed_forward.w3")),
        ):
            s = factors(config.dim)
            out[f"{p}.{norm}.weight"] = out[f"{p}.{norm}.weight"] * s
            for user in users:
                out[f"{p}.{user}.weight"] = out[f"{p}.{user}.weight"] / s
        s = factors(config.ffn_dim)
        out[f"{p}.feed_forward.w3.weight"] = out[f"{p}.feed_forward.w3.weight"] * s[:, None]
        out[f"{p}.feed_forward.w2.weight"] = out[f"{p}.feed_forward.w2.weight"] / s
        s = factors(config.n_kv_heads * config.head_dim)
        per_query_head = np.repeat(s.reshape(config.n_kv_heads, -1), config.n_heads // config.n_kv_heads, axis=0)
        out[f"{p}.attention.wv.weight"] = out[f"{p}.attention.wv.weight"] * s[:, None]
        out[f"{p}.attention.wo.weight"] = out[f"{p}.attention.wo.weight"] / per_query_head.reshape(-1)
    return out


def write_checkpoint(folder: Path, source: Source, weights: Weights) -> Path:
    """Write the weights as a Hugging Face checkpoint with the source's configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tokenizer = source.config, source.tokenizer
    names = name_map("canonical", "huggingface", config.n_layers)
    tensors: dict[str, Any] = {}
    for name, array in weights.items():
        for part, n_heads in ((".attention.wq.", config.n_heads), (".attention.wk.", config.n_kv_heads)):
            if part in name:
                array = array[half_from_interleaved(n_heads, config.head_dim)]  # noqa: PLW2901
        tensors[names[name]] = np.ascontiguousarray(array)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model_config(config, tokenizer)))
    (folder / "tokenizer.json").write_text(json.dumps(to_hf_json(tokenizer)))
    special = {"bos_token": tokenizer.piece(tokenizer.bos_id), "eos_token": tokenizer.piece(tokenizer.eos_id)}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder
