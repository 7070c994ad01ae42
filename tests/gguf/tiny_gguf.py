"""A random Llama of a few thousand weights, as a GGUF file and as ``transformers``' model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Weights = Mapping[str, npt.NDArray[np.float32]]

DIM, N_LAYERS, N_HEADS, N_KV_HEADS, HEAD_DIM, FFN_DIM = 64, 2, 4, 2, 16, 128
ROPE_THETA, NORM_EPS, MAX_SEQ_LEN = 10_000.0, 1e-5, 2048

MERGES = ("h e", "l l", "he ll", "hell o", "Ġ t", "Ġt he", "1 2", "à ¤")


def byte_pieces() -> list[str]:
    """GPT-2's printable stand-in for each byte, in byte order (``encoder.py`` of openai/gpt-2)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


PIECES = [*byte_pieces(), *(merge.replace(" ", "") for merge in MERGES), "<|begin|>", "<|end|>"]
BOS_ID, EOS_ID = len(PIECES) - 2, len(PIECES) - 1


def random_weights(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Weights under GGUF's names, matrices ``[out, in]`` with interleaved rotary pairs."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, cols: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return (1 + 0.2 * rng.standard_normal(DIM)).astype(np.float32)

    weights = {"token_embd": matrix(len(PIECES), DIM), "output_norm": norm(), "output": matrix(len(PIECES), DIM)}
    for i in range(N_LAYERS):
        weights |= {
            f"blk.{i}.attn_norm": norm(),
            f"blk.{i}.attn_q": matrix(N_HEADS * HEAD_DIM, DIM),
            f"blk.{i}.attn_k": matrix(N_KV_HEADS * HEAD_DIM, DIM),
            f"blk.{i}.attn_v": matrix(N_KV_HEADS * HEAD_DIM, DIM),
            f"blk.{i}.attn_output": matrix(DIM, N_HEADS * HEAD_DIM),
            f"blk.{i}.ffn_norm": norm(),
            f"blk.{i}.ffn_gate": matrix(FFN_DIM, DIM),
            f"blk.{i}.ffn_up": matrix(FFN_DIM, DIM),
            f"blk.{i}.ffn_down": matrix(DIM, FFN_DIM),
        }
    return weights


def write_gguf(
    path: Path,
    weights: Weights,
    type_name: str = "F32",
    *,
    rope_theta: float = ROPE_THETA,
    norm_eps: float = NORM_EPS,
    eos_id: int = EOS_ID,
    split_max_tensors: int = 0,
) -> Path:
    """Write the model with matrices in ``type_name`` (norms stay float32); returns the file or the first shard."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    writer.add_context_length(MAX_SEQ_LEN)
    writer.add_embedding_length(DIM)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(FFN_DIM)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(rope_theta)
    writer.add_layer_norm_rms_eps(norm_eps)
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(PIECES)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(PIECES) - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(eos_id)
    writer.add_add_bos_token(True)
    for name, weight in weights.items():
        ggml_type = gguf.GGMLQuantizationType[type_name if weight.ndim == 2 else "F32"]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, ggml_type), raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.exists() else min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def decoded(weights: Weights, type_name: str) -> dict[str, npt.NDArray[np.float32]]:
    """What is left of the weights after a round trip through ``type_name``."""
    ggml_type = gguf.GGMLQuantizationType[type_name]
    return {
        name: gguf.quants.dequantize(gguf.quants.quantize(weight, ggml_type), ggml_type) if weight.ndim == 2 else weight
        for name, weight in weights.items()
    }


def transformers_model(weights: Weights) -> LlamaForCausalLM:
    """The same function in ``transformers``, in float32 on the CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    state: dict[str, Any] = {}
    for name, weight in weights.items():
        block, _, short = name.rpartition(".")
        rows = _halves(weight) if short in ("attn_q", "attn_k") else weight
        target = f"{block.replace('blk', 'model.layers')}.{names[short]}" if block else names[short]
        state[f"{target}.weight"] = torch.from_numpy(rows)
    config = LlamaConfig(
        hidden_size=DIM,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=FFN_DIM,
        vocab_size=len(PIECES),
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        max_position_embeddings=MAX_SEQ_LEN,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval().float()
    model.load_state_dict(state, strict=True)
    return model


def _halves(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of each head from interleaved rotary pairs to Hugging Face's two halves."""
    heads = weight.reshape(-1, HEAD_DIM // 2, 2, weight.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(weight.shape)
