"""The small files that make a folder of models a repository that Transformers.js loads as it is.

Sources: transformers ``models/llama/configuration_llama.py`` for ``config.json``; Transformers.js ``configs.js`` and
``models/session.js`` for ``transformers.js_config``, and its ``tokenizers.js``, which looks for the chat template
inside ``tokenizer_config.json`` and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exporter.config import ModelConfig, RopeScaling
from exporter.errors import TargetError
from exporter.targets.onnx.capabilities import QUANTS, OnnxQuant
from exporter.targets.onnx.genai import genai_config
from exporter.targets.onnx.rotary import context_length
from exporter.tokenizer import Tokenizer
from exporter.tokenizer.to_huggingface import to_hf_json
from exporter.tokenizer.tokenizer import unused_piece

FOLDER = "onnx"
"""The repository, below the output folder."""
MODELS = f"{FOLDER}/onnx"
"""Transformers.js takes models from the ``onnx`` folder of a repository."""

_NAMED = ("bos", "eos", "pad", "unk")
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
        "tokenizer_config.json": tokenizer_config(tokenizer, config),
        "special_tokens_map.json": _special_tokens(tokenizer),
        "genai_config.json": genai_config(config, tokenizer, f"onnx/{default.file_name}"),
    }
    texts = {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}
    texts["tokenizer.json"] = json.dumps(_tokenizer_json(tokenizer), ensure_ascii=False)
    return {f"{FOLDER}/{name}": text for name, text in texts.items()}


def model_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """``config.json`` as transformers writes it for a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config.rope_scaling),
        "max_position_embeddings": config.max_seq_len,
        "tie_word_embeddings": bool(config.tied_embeddings),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **_token_ids(tokenizer),
    }


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    if scaling.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    raise TargetError(
        "config.json cannot express these rotary frequencies",
        expected="no scaling, linear or llama3",
        found=f"a stored divisor for each of {len(scaling.factors)} frequencies",
        hint="export from the original checkpoint, which names the formula, instead of a GGUF",
    )


def _token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {"bos": tokenizer.bos_id, "eos": list(tokenizer.stop_ids) or None, "pad": tokenizer.pad_id}
    return {f"{name}_token_id": value for name, value in ids.items() if value is not None}


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """``generation_config.json``: every token that ends a generation, not only the main one."""
    return {"_from_model_config": False, **_token_ids(tokenizer)}


def _special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    ids = {name: getattr(tokenizer, f"{name}_id") for name in _NAMED}
    return {f"{name}_token": tokenizer.piece(token_id) for name, token_id in ids.items() if token_id is not None}


def tokenizer_config(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    """``tokenizer_config.json`` with the chat template inside."""
    template = {} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_special_tokens(tokenizer),
        "add_bos_token": tokenizer.add_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length(config),
        **template,
    }


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """``tokenizer.json`` without the names that stand for rows of the embedding that no token uses."""
    document = to_hf_json(tokenizer)
    vocab = document["model"]["vocab"]
    document["model"]["vocab"] = {piece: i for piece, i in vocab.items() if piece != unused_piece(i)}
    return document
