"""Hugging Face's small files, as the loaders of several targets read them.

Sources: transformers ``models/llama/configuration_llama.py`` for ``config.json``; Transformers.js' ``tokenizers.js``,
which looks for the chat template inside ``tokenizer_config.json`` and nowhere else.
"""

from __future__ import annotations

from typing import Any

from exporter.checkpoint.huggingface import KEPT_TOKENS
from exporter.config import ModelConfig, RopeScaling
from exporter.errors import TargetError
from exporter.tokenizer import Tokenizer
from exporter.tokenizer.to_huggingface import to_hf_json
from exporter.tokenizer.tokenizer import unused_piece

_NAMED = ("bos", "eos", "pad", "unk")


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
        **({} if config.kept_tokens is None else {KEPT_TOKENS: list(config.kept_tokens)}),
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


def special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """``special_tokens_map.json``."""
    ids = {name: getattr(tokenizer, f"{name}_id") for name in _NAMED}
    return {f"{name}_token": tokenizer.piece(token_id) for name, token_id in ids.items() if token_id is not None}


def tokenizer_config(tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """``tokenizer_config.json`` with the chat template inside; ``max_length`` in tokens."""
    template = {} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens(tokenizer),
        "add_bos_token": tokenizer.add_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        **template,
    }


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """``tokenizer.json`` without the names that stand for rows of the embedding that no token uses."""
    document = to_hf_json(tokenizer)
    vocab = document["model"]["vocab"]
    document["model"]["vocab"] = {piece: i for piece, i in vocab.items() if piece != unused_piece(i)}
    return document
