"""The key/value section of a GGUF, from the graph's configuration, the model card facts and the tokenizer.

Keys and their meaning: ggml's ``docs/gguf.md`` and gguf-py's ``constants.py``; which of them the loader
requires for architecture ``llama``: llama.cpp's ``src/llama-model.cpp``.
"""

from __future__ import annotations

import gguf

from exporter.config import ModelConfig
from exporter.targets.base import Subject
from exporter.tokenizer.to_gguf import write_gguf_vocab

ARCHITECTURE = "llama"


def add_metadata(writer: gguf.GGUFWriter, subject: Subject, config: ModelConfig, ftype: str, n_params: int) -> None:
    """Add every key to the writer.

    Args:
        writer: A writer made for :data:`ARCHITECTURE`.
        subject: Tokenizer and model card facts.
        config: The configuration of the graph being written.
        ftype: llama-quantize's name of the file type, e.g. ``Q4_K_M``.
        n_params: Weights in the file, for the size label.
    """
    info = subject.info
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(info.name)
    writer.add_organization(info.organization)
    writer.add_license(info.license)
    writer.add_languages(list(info.languages))
    writer.add_size_label(gguf.size_label(n_params, n_params, 0, 0))
    if info.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, info.base_model.rpartition("/")[2])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{info.base_model}")

    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
    writer.add_vocab_size(config.vocab_size)

    write_gguf_vocab(writer, subject.tokenizer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(file_type(ftype))


def file_type(ftype: str) -> int:
    """llama.cpp's number for a file type (``enum llama_ftype`` in ``llama.h``)."""
    name = "ALL_F32" if ftype == "F32" else f"MOSTLY_{ftype}"
    return int(gguf.LlamaFileType[name])
