"""``genai_config.json``: how onnxruntime-genai loads the same folder.

Fields: onnxruntime-genai's ``src/config.h``. It reads ``tokenizer.json`` and the chat template inside
``tokenizer_config.json`` as Transformers.js does, and fills ``num_logits_to_keep`` by itself (release 0.18).
"""

from __future__ import annotations

from typing import Any

from exporter.config import ModelConfig
from exporter.targets.onnx.rotary import context_length
from exporter.tokenizer import Tokenizer


def genai_config(config: ModelConfig, tokenizer: Tokenizer, model_file: str) -> dict[str, Any]:
    """The document.

    Args:
        config: Of the graph.
        tokenizer: Its tokenizer.
        model_file: The variant to load, relative to the folder.
    """
    length = context_length(config)
    # It wants all three; a vocabulary that lacks one never meets it.
    stops = list(tokenizer.stop_ids) or [config.vocab_size - 1]
    return {
        "model": {
            "type": "llama",
            "bos_token_id": stops[0] if tokenizer.bos_id is None else tokenizer.bos_id,
            "eos_token_id": stops,
            "pad_token_id": stops[0] if tokenizer.pad_id is None else tokenizer.pad_id,
            "vocab_size": config.vocab_size,
            "context_length": length,
            "decoder": {
                "filename": model_file,
                "hidden_size": config.dim,
                "head_size": config.head_dim,
                "num_attention_heads": config.n_heads,
                "num_key_value_heads": config.n_kv_heads,
                "num_hidden_layers": config.n_layers,
                "session_options": {"provider_options": []},
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": length, "past_present_share_buffer": False},
    }
