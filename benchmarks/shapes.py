"""Checkpoints of real shapes with random weights: what a benchmark needs, without anybody's licence.

The weights are one seeded bfloat16 block repeated, because a benchmark of quantizers needs realistic values, not
realistic knowledge. The 70B is a sparse file of zeros: only its size matters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from exporter.config import ModelConfig, RopeScaling
from exporter.names import expected_shapes, name_map
from exporter.targets.hf_files import model_config
from exporter.tokenizer import load_tokenizer_folder, to_hf_json

_LLAMA3 = {"rope_theta": 500000.0, "norm_eps": 1e-5, "vocab_size": 128256, "max_seq_len": 131072}

SHAPES: dict[str, ModelConfig] = {
    # https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json: 1,235,814,400 parameters, tied
    "1b": ModelConfig(
        dim=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, ffn_dim=8192,
        rope_scaling=RopeScaling("llama3", factor=32.0), tied_embeddings=True, **_LLAMA3,
    ),
    # https://huggingface.co/meta-llama/Llama-Guard-3-1B/blob/main/config.json: 1,498,482,688 parameters, the head
    # counted and stored apart as in Meta's sizes
    "guard-1b": ModelConfig(
        dim=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, ffn_dim=8192,
        rope_scaling=RopeScaling("llama3", factor=32.0), tied_embeddings=False, **_LLAMA3,
    ),
    # https://huggingface.co/meta-llama/Llama-3.2-3B/blob/main/config.json: 3,212,749,824 parameters, tied
    "3b": ModelConfig(
        dim=3072, n_layers=28, n_heads=24, n_kv_heads=8, head_dim=128, ffn_dim=8192,
        rope_scaling=RopeScaling("llama3", factor=32.0), tied_embeddings=True, **_LLAMA3,
    ),
    # https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json: 8,030,261,248 parameters, untied
    "8b": ModelConfig(
        dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, ffn_dim=14336,
        rope_scaling=RopeScaling("llama3", factor=8.0), tied_embeddings=False, **_LLAMA3,
    ),
    # https://huggingface.co/meta-llama/Llama-3.1-70B/blob/main/config.json: 70,553,706,496 parameters, untied
    "70b": ModelConfig(
        dim=8192, n_layers=80, n_heads=64, n_kv_heads=8, head_dim=128, ffn_dim=28672,
        rope_scaling=RopeScaling("llama3", factor=8.0), tied_embeddings=False, **_LLAMA3,
    ),
}  # fmt: skip

_BLOCK = 1 << 22


def _random_block() -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(_BLOCK, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)


def _write_weights(file: BinaryIO, shapes: dict[str, tuple[int, ...]]) -> None:
    block = _random_block()
    for shape in shapes.values():
        left = int(np.prod(shape))
        while left:
            n = min(left, _BLOCK)
            file.write(block[:n].view(np.uint8).data)
            left -= n


def make_checkpoint(folder: Path, shape: str, tokenizer_folder: Path, *, sparse: bool = False) -> Path:
    """Write a Hugging Face checkpoint of ``shape`` unless it is there already.

    Args:
        folder: Destination; one ``model.safetensors``.
        shape: Key of :data:`SHAPES`.
        tokenizer_folder: Folder with a Llama 3 ``tokenizer.model``.
        sparse: Leave the weights a hole in the file: zeros that take no disk.
    """
    if (folder / "tokenizer.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = SHAPES[shape]
    hf_names = name_map("canonical", "huggingface", config.n_layers)
    shapes = {hf_names[name]: dims for name, dims in expected_shapes(config).items()}
    header, offset = {}, 0
    for name, dims in shapes.items():
        nbytes = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if sparse:
            file.truncate(8 + len(text) + offset)
        else:
            _write_weights(file, shapes)
    tokenizer = load_tokenizer_folder(tokenizer_folder).padded(config.vocab_size)
    (folder / "config.json").write_text(json.dumps(model_config(config, tokenizer), indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(to_hf_json(tokenizer)))
    special = {"bos_token": tokenizer.piece(tokenizer.bos_id), "eos_token": tokenizer.piece(tokenizer.eos_id)}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder
