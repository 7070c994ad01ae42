"""Checkpoints as Meta distributes them: ``params.json``, ``consolidated.NN.pth``, ``tokenizer.model``.

Sources: llama_models ``llama3/args.py`` (fields and defaults), ``llama3/model.py`` (the width of the feed-forward
layer), ``sku_list.py`` (published shapes); transformers ``convert_llama_weights_to_hf.py`` (context lengths).
"""

from __future__ import annotations

from pathlib import Path

from exporter.checkpoint.base import Checkpoint
from exporter.checkpoint.fields import Fields, checked, read_json
from exporter.checkpoint.info import read_model_card
from exporter.checkpoint.matching import listing, match_tensors
from exporter.checkpoint.meta_shards import Shards, join_shards, load_shard
from exporter.checkpoint.prequantized import parse_quantization, quantized_tensors, require_one_file
from exporter.checkpoint.tokenizer_files import tokenizer_files, tokenizer_loader
from exporter.checkpoint.unsupported import VISION
from exporter.config import ModelConfig, RopeScaling
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.names import EMBEDDING, HEAD, expected_shapes

ROTARY_TABLE = r"rope\.freqs"

ROPE_FACTORS = {2048: 32.0, 3072: 32.0, 4096: 8.0, 8192: 8.0, 16384: 8.0}
"""RoPE factor by model width. ``params.json`` says only ``use_scaled_rope``; these are the factors in the
``config.json`` that Meta publishes on the Hub for Llama 3.2 1B and 3B (32) and Llama 3.1 8B, 70B and 405B (8)."""

DEFAULT_ROPE_FACTOR = 8.0
"""What Meta's reference code applies to every width (``llama3/model.py``, ``apply_scaling``)."""

CONTEXT_LENGTHS = (
    ("llama 3.2, quantized by Meta", lambda scaled, theta, quantized: quantized, 8192),
    ("llama 3.1 and later", lambda scaled, theta, quantized: scaled, 131072),
    ("llama 3", lambda scaled, theta, quantized: theta == 500000, 8192),
    ("code llama", lambda scaled, theta, quantized: theta > 10000, 16384),
    ("llama 2", lambda scaled, theta, quantized: True, 4096),
)
"""The first generation that ``use_scaled_rope``, ``rope_theta`` and the presence of ``quantization_args`` fit, and its
context length in tokens (of the first: llama_models ``llama3_2/MODEL_CARD.md``)."""

REFUSED = {
    "vision_chunk_size": VISION,
    "vision_model": VISION,
    "moe_args": "mixture-of-experts models are not supported",
}


def open_meta(folder: Path, name: str) -> Checkpoint:
    """Open a folder; ``torch.load`` maps the files, so no weight is read.

    Raises:
        CheckpointError: A shard that is missing, truncated or not weights; missing, unknown or misshapen tensors.
        UnsupportedModelError: Vision or mixture-of-experts weights; adaptors or a quantization that Meta does not use.
    """
    source = folder / "params.json"
    fields = Fields(read_json(source), source)
    _refuse(fields)
    quantization = parse_quantization(fields)
    files = shard_files(folder)
    if quantization is not None:
        require_one_file(files)
    shards = [load_shard(path, integers=quantization is not None) for path in files]
    config, notes = parse_config(fields, shards)
    if quantization is not None:
        config, notes = quantization.config(config), (quantization.note, *notes)
    checked(config, source)
    found = join_shards(shards, config, folder)
    if quantization is not None:
        found = quantized_tensors(found, quantization, config, fields)
    names = {name: name for name in expected_shapes(config)}
    return Checkpoint(
        path=folder,
        format="meta",
        config=config,
        tensors=match_tensors(folder, found, names, config, ignored=ROTARY_TABLE),
        info=read_model_card(folder, name),
        files=(source, *files, *tokenizer_files(folder)),
        load_tokenizer=tokenizer_loader(folder, config.vocab_size),
        notes=notes,
    )


def parse_config(fields: Fields, shards: Shards) -> tuple[ModelConfig, tuple[str, ...]]:
    """The hyperparameters in a params.json, and what had to be decided because it does not say."""
    dim, n_heads = fields.integer("dim"), fields.integer("n_heads")
    theta = fields.number("rope_theta", 10000.0)
    scaled = fields.values.get("use_scaled_rope") is True
    quantized = fields.values.get("quantization_args") is not None
    generation, max_seq_len = next((name, n) for name, fits, n in CONTEXT_LENGTHS if fits(scaled, theta, quantized))
    notes = [f"context length {max_seq_len} ({generation}): params.json does not say"]
    scaling = None
    if scaled:
        factor = ROPE_FACTORS.get(dim, DEFAULT_ROPE_FACTOR)
        scaling = RopeScaling("llama3", factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192)
        why = f"as published for width {dim}" if dim in ROPE_FACTORS else f"Meta's default: width {dim} is unpublished"
        notes.append(f"RoPE factor {factor:g} ({why}): params.json says only use_scaled_rope")
    vocab_size = fields.integer("vocab_size", -1)
    config = ModelConfig(
        dim=dim,
        n_layers=fields.integer("n_layers"),
        n_heads=n_heads,
        n_kv_heads=fields.integer("n_kv_heads", n_heads),
        head_dim=dim // max(n_heads, 1),
        ffn_dim=fields.integer("hidden_dim", _ffn_dim(fields, dim)),
        vocab_size=vocab_size if vocab_size > 0 else _stored_vocab_size(shards, dim),
        norm_eps=fields.number("norm_eps", 1e-5),
        rope_theta=theta,
        max_seq_len=max_seq_len,
        rope_scaling=scaling,
        tied_embeddings=None if HEAD in shards[0] else True,
    )
    return config, tuple(notes)


def shard_files(folder: Path) -> tuple[Path, ...]:
    """``consolidated.00.pth`` and its successors.

    Raises:
        CheckpointError: The numbering has a gap.
    """
    found = sorted(folder.glob("consolidated.*.pth"))
    last = max((int(path.name.split(".")[1]) for path in found if path.name.split(".")[1].isdecimal()), default=0)
    wanted = [folder / f"consolidated.{i:02d}.pth" for i in range(last + 1)]
    missing = [path.name for path in wanted if path not in found]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of its weight files",
            expected=listing(missing),
            found=listing(path.name for path in found),
            hint="finish the download; a model-parallel checkpoint needs every shard",
        )
    return tuple(wanted)


def _ffn_dim(fields: Fields, dim: int) -> int:
    """Two thirds of ``4 * dim``, scaled, rounded up: ``FeedForward.__init__`` in Meta's ``llama3/model.py``."""
    width = int(fields.number("ffn_dim_multiplier", 1.0) * int(2 * (4 * dim) / 3))
    multiple = max(fields.integer("multiple_of", 256), 1)
    return multiple * -(-width // multiple)


def _stored_vocab_size(shards: Shards, dim: int) -> int:
    """Llama 1 and 2 write ``vocab_size: -1`` and mean the tokenizer's, which is the height of the embedding."""
    embedding = shards[0].get(EMBEDDING)
    if embedding is None or len(embedding.dims) != 2:
        return 0
    rows, columns = embedding.dims
    return rows if columns != dim else rows * len(shards)


def _refuse(fields: Fields) -> None:
    for key, why in REFUSED.items():
        value = fields.values.get(key)
        if value not in (None, -1):
            raise UnsupportedModelError(f"{fields.source}: {why}", expected=f"no {key}", found=f"{key}: {value}")
