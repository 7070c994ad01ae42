"""A pruned model as a folder in Hugging Face's format that ``exporter export`` opens again.

Weights keep the type they had and stream through; everything is staged and then renamed. A model whose head has all
of its rows is a Llama like any other to transformers as well. One with some rows is not, and transformers refuses it:
``lm_head.weight`` is lower than ``vocab_size`` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporter.artifact import Staging, staging
from exporter.checkpoint import pruned
from exporter.checkpoint.base import ModelInfo
from exporter.checkpoint.safetensors_file import DTYPES
from exporter.config import ModelConfig
from exporter.errors import OutputError
from exporter.ir.build import config_of
from exporter.ir.weights import row_tensor
from exporter.names import expected_shapes, name_map
from exporter.rope import half_from_interleaved
from exporter.targets.base import Progress
from exporter.targets.hf_files import generation_config, model_config, special_tokens, tokenizer_config, tokenizer_json
from exporter.targets.streaming import HashedFile
from exporter.tensors import RowTensor, contiguous_bytes, permute_rows
from exporter.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
SCORES = "importance.json"
PLOT = "importance.png"
UNFINISHED = "training"
"""Folder in a destination with a training's work until the model is there (:mod:`exporter.prune_guard.unfinished`)."""
_TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def require_free(out: Path, force: bool) -> None:
    """Refuse a destination that holds something, before the work.

    Raises:
        OutputError: It holds files beside an unfinished training, and ``force`` is not set or they are no pruned model.
    """
    if not out.is_dir() or all(path.name == UNFINISHED for path in out.iterdir()):
        return
    if not (out / pruned.FILE).is_file():
        raise OutputError(f"{out} is not empty", expected="a new folder", hint="choose another --out")
    if not force:
        raise OutputError(f"{out} holds a pruned model", expected="a new folder", hint="pass --force to replace it")


def save(
    out: Path,
    model: ir.Model,
    tokenizer: Tokenizer,
    info: ModelInfo,
    memory: Mapping[str, Any],
    progress: Progress,
    extra: Mapping[str, bytes],
) -> None:
    """Write the folder.

    Args:
        out: Destination; it appears at once, or not at all.
        model: The graph, unquantized. Its weights are read a chunk of rows at a time.
        tokenizer: Its tokenizer.
        info: Facts of the model it was pruned from; the licence goes on with the weights.
        memory: What ``prune.json`` keeps beside its schema.
        progress: Gets the bytes of the weights.
        extra: More files, name -> bytes.

    Raises:
        OutputError: The destination cannot be written.
        TargetError: config.json cannot express the model's rotary frequencies.
    """
    config = config_of(model)
    weights = _huggingface(model, config)
    documents = {
        "config.json": {**model_config(config, tokenizer), "torch_dtype": _dtype_name(weights)},
        "generation_config.json": generation_config(tokenizer),
        "tokenizer_config.json": tokenizer_config(tokenizer, config.max_seq_len),
        "special_tokens_map.json": special_tokens(tokenizer),
        pruned.FILE: {"schema": pruned.SCHEMA, **memory, "config": config.to_dict()},
    }
    with staging(out) as stage:
        for name, document in documents.items():
            stage.write_text(name, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        stage.write_text("tokenizer.json", json.dumps(tokenizer_json(tokenizer), ensure_ascii=False))
        stage.write_text("README.md", _card(info, memory))
        for name, data in extra.items():
            (stage.path / name).write_bytes(data)
        _write_weights(stage, weights, progress)
        stage.commit()


def pictures(source: Path) -> dict[str, bytes]:
    """What a pruned folder holds of its scores, name -> bytes: a model that is made of it holds them too."""
    return {name: (source / name).read_bytes() for name in (SCORES, PLOT) if (source / name).is_file()}


def weight_bytes(model: ir.Model) -> int:
    """Bytes of the weights as :func:`save` writes them."""
    return sum(tensor.nbytes for tensor in _huggingface(model, config_of(model)).values())


def _huggingface(model: ir.Model, config: ModelConfig) -> dict[str, RowTensor]:
    """Hugging Face's name -> weight, Q and K in the row order of ``rotate_half``."""
    names = name_map("canonical", "huggingface", config.n_layers)
    orders = {
        "wq": half_from_interleaved(config.n_heads, config.head_dim),
        "wk": half_from_interleaved(config.n_kv_heads, config.head_dim),
    }
    found = {}
    for name in expected_shapes(config):
        tensor, part = row_tensor(model.graph.initializers[name]), name.split(".")[-2]
        found[names[name]] = permute_rows(tensor, orders[part]) if part in orders else tensor
    return found


def _dtype_name(weights: Mapping[str, RowTensor]) -> str:
    """The element type that most of the model has, as transformers calls it."""
    largest = max(weights.values(), key=lambda tensor: tensor.size)
    return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[_TYPE_NAMES[largest.dtype]]


def _write_weights(stage: Staging, weights: Mapping[str, RowTensor], progress: Progress) -> None:
    """Format: the safetensors README; the header is padded so that tensors begin at a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPE_NAMES[tensor.dtype], "shape": list(tensor.dims), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = HashedFile(stage.path / WEIGHTS, progress)
    try:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in weights.items():
            file.writing = name
            for start, stop in tensor.row_ranges():
                file.write(contiguous_bytes(tensor.rows(start, stop)))
    finally:
        file.close(WEIGHTS)


def _card(info: ModelInfo, memory: Mapping[str, Any]) -> str:
    """A model card with the front matter that a reader of the folder takes its facts from."""
    facts = {"license": info.license, "base_model": info.base_model}
    front = [f"{key}: {json.dumps(value)}" for key, value in facts.items() if value]
    if info.languages:
        front.append(f"language: {json.dumps(list(info.languages))}")
    steps = [
        f"| {step['step']} | {step['parameters']:,} | {_number(step['perplexity'])} |" for step in memory["report"]
    ]
    return "\n".join([
        *(["---", *front, "---", ""] if front else []),
        f"# {info.name}, {'distilled' if 'recovery' in memory else 'pruned'}",
        "",
        f"Made from `{memory['source']['model']}` by exporter {memory['exporter']}; `{pruned.FILE}` has the details.",
        "",
        "| after | parameters | perplexity |",
        "|---|---|---|",
        *steps,
        "",
    ])  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
