"""The small files that make a folder of models a repository that Transformers.js loads as it is.

Sources: Transformers.js' ``configs.js`` and ``models/session.js`` for ``transformers.js_config``; the rest is
``hf_files.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from exporter.config import ModelConfig
from exporter.targets.hf_files import (
    generation_config,
    model_config,
    special_tokens,
    tokenizer_config,
    tokenizer_json,
)
from exporter.targets.onnx.capabilities import QUANTS, OnnxQuant
from exporter.targets.onnx.genai import genai_config
from exporter.targets.onnx.rotary import context_length
from exporter.tokenizer import Tokenizer

FOLDER = "onnx"
"""The repository, below the output folder."""
MODELS = f"{FOLDER}/onnx"
"""Transformers.js takes models from the ``onnx`` folder of a repository."""

_HALF_CACHES = {row.dtype: "float16" for row in QUANTS.values() if row.activations.name == "FLOAT16"}


def render(
    config: ModelConfig, tokenizer: Tokenizer, data_files: Mapping[str, int], default: OnnxQuant, wasm: OnnxQuant
) -> dict[str, str]:
    """Every file but the models, path below the output folder -> text.

    Args:
        config: Of the graph.
        tokenizer: Its tokenizer.
        data_files: Model file name -> number of its external data files, of every variant the model can have.
        default: The variant to load where nobody names one.
        wasm: The same in WebAssembly.

    Raises:
        TargetError: If ``config.json`` cannot express the model's rotary frequencies.
    """
    model = {
        **model_config(config, tokenizer),
        "transformers.js_config": {
            "dtype": default.dtype,
            "device_config": {"wasm": {"dtype": wasm.dtype}},
            "kv_cache_dtype": _HALF_CACHES,
            "use_external_data_format": dict(data_files),
        },
    }
    documents = {
        "config.json": model,
        "generation_config.json": generation_config(tokenizer),
        "tokenizer_config.json": tokenizer_config(tokenizer, context_length(config)),
        "special_tokens_map.json": special_tokens(tokenizer),
        "genai_config.json": genai_config(config, tokenizer, f"onnx/{default.file_name}"),
    }
    texts = {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}
    texts["tokenizer.json"] = json.dumps(tokenizer_json(tokenizer), ensure_ascii=False)
    return {f"{FOLDER}/{name}": text for name, text in texts.items()}
