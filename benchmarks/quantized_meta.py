"""Checkpoints in the format of Meta's quantized Llama 3.2, of a real shape and with random integers.

What a benchmark needs of them is the format and the size; what the files look like says
``exporter/checkpoint/prequantized.py``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import CACHE
from benchmarks.shapes import SHAPES
from exporter.checkpoint.meta import ROPE_FACTORS
from exporter.names import EMBEDDING, HEAD, expected_shapes
from scripts.fetch_models import fetch

GROUP, LORA = 32, {"rank": 16, "scale": 2.0}
"""Of the published ones."""


def make(shape: str, flavour: str, n_layers: int | None = None) -> Path:
    """Write a folder unless it is there already.

    Args:
        shape: Key of :data:`benchmarks.shapes.SHAPES` whose RoPE factor Meta's format leaves to the reader.
        flavour: ``spinquant`` or ``qlora``.
        n_layers: Instead of the shape's own.
    """
    import torch

    config = SHAPES[shape].replace(tied_embeddings=False)
    if config.rope_scaling is None or config.rope_scaling.factor != ROPE_FACTORS[config.dim]:
        raise ValueError(f"params.json cannot describe {shape}")
    if n_layers is not None:
        config = config.replace(n_layers=n_layers)
    folder = CACHE / f"llama-{shape}-{flavour}-{config.n_layers}"
    if (folder / "params.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if flavour == "qlora":
        config = config.replace(lora_rank=LORA["rank"], lora_scale=LORA["scale"])
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for name, dims in expected_shapes(config).items():
        if len(dims) == 1:
            tensors[name] = torch.ones(dims, dtype=torch.bfloat16)
        elif ".adaptor." in name:
            values = rng.standard_normal(dims, np.float32) * np.float32(0.02)
            tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
        else:
            by_row = name in (EMBEDDING, HEAD)
            bound, columns = (128, 1) if by_row else (8, dims[1] // GROUP)
            tensors[name] = torch.from_numpy(rng.integers(-bound, bound, dims, np.int8))
            steps = rng.uniform(0.5, 1.5, (dims[0], columns)).astype(np.float32) * np.float32(0.03 / bound)
            tensors[name.replace(".weight", ".scales")] = torch.from_numpy(steps)
    # executorch's exporter takes the type of the first tensor for that of the model.
    tensors = {"norm.weight": tensors.pop("norm.weight"), **tensors}
    torch.save(tensors, folder / "consolidated.00.pth")
    shutil.copy(fetch("llama3-tokenizer"), folder / "tokenizer.model")
    args: dict[str, Any] = {"scheme": "int4_weight_int8_dynamic_activation", "group_size": GROUP}
    params = {
        "dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads, "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size, "hidden_dim": config.ffn_dim, "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "use_scaled_rope": True,
        "quantization_args": args | ({"spinquant": True} if flavour == "spinquant" else {}),
        **({"lora_args": LORA} if flavour == "qlora" else {}),
    }  # fmt: skip
    (folder / "params.json").write_text(json.dumps(params))
    return folder
