"""Checkpoints as transformers saves them: ``config.json``, ``*.safetensors``, ``tokenizer.json``.

Sources: transformers ``models/llama/configuration_llama.py`` (fields and their defaults),
``modeling_rope_utils.py`` (RoPE parameters, old and new style), ``convert_llama_weights_to_hf.py`` (the row order of
Q and K).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.checkpoint.base import Checkpoint
from exporter.checkpoint.fields import Fields, checked, read_json
from exporter.checkpoint.info import SPLIT_SUFFIX, read_model_card
from exporter.checkpoint.matching import listing, match_tensors
from exporter.checkpoint.pruned import FILE as PRUNED
from exporter.checkpoint.pruned import read_pruned
from exporter.checkpoint.safetensors_file import read_tensors
from exporter.checkpoint.tokenizer_files import tokenizer_files, tokenizer_loader
from exporter.checkpoint.unsupported import refuse_architecture, refuse_rope
from exporter.config import ModelConfig, RopeScaling
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.names import name_map
from exporter.rope import interleaved_from_half
from exporter.tensors import RowTensor, permute_rows

INDEX = "model.safetensors.index.json"
ARCHITECTURES = ("LlamaForCausalLM",)
MODEL_TYPES = ("llama",)

KEPT_TOKENS = "kept_tokens"
"""Key of config.json, this exporter's own: the tokens that have a row in ``lm_head.weight``, if not all do."""

ROTARY_TABLES = r".*\.rotary_emb\.inv_freq"
"""Names of rotary tables that old files carry; they follow from the configuration."""


@dataclass(frozen=True)
class _Refusal:
    """A field of config.json that, if it has another value than these, changes the function beyond the IR."""

    key: str
    allowed: tuple[Any, ...]
    why: str


REFUSALS = (
    _Refusal("quantization_config", (None,), "the weights are already quantized; export the original checkpoint"),
    _Refusal("attention_bias", (None, False), "biases in the attention are not supported"),
    _Refusal("mlp_bias", (None, False), "biases in the feed-forward layers are not supported"),
    _Refusal("hidden_act", (None, "silu"), "only the SwiGLU feed-forward of Llama is supported"),
    _Refusal("partial_rotary_factor", (None, 1, 1.0), "every row of a head must be rotated"),
)


def open_huggingface(folder: Path, name: str) -> Checkpoint:
    """Open a folder; no weight is read.

    Raises:
        CheckpointError: Missing, truncated, unknown or misshapen tensors; a config.json that makes no sense.
        UnsupportedModelError: Another architecture, RoPE type, biases, quantized weights.
    """
    source = folder / "config.json"
    raw = read_json(source)
    fields = Fields(raw, source)
    _refuse({**_rope_fields(fields).values, **raw}, source)
    files = weight_files(folder)
    found = _read_files(folder, files)
    config = parse_config(fields)
    notes: tuple[str, ...] = ()
    if config.tied_embeddings and "lm_head.weight" in found:
        config = config.replace(tied_embeddings=None)
        notes = ("config.json ties the head to the embedding, yet lm_head.weight is stored: the weights will tell",)
    checked(config, source)
    pruned = read_pruned(folder)
    if pruned is not None:
        notes = (*notes, pruned.note)
    names = name_map("huggingface", "canonical", config.n_layers)
    tensors = match_tensors(folder, found, names, config, ignored=ROTARY_TABLES)
    return Checkpoint(
        path=folder,
        format="huggingface",
        config=config,
        tensors=_interleave(tensors, config),
        info=read_model_card(folder, name),
        files=(source, *_optional(folder, INDEX, PRUNED), *files, *tokenizer_files(folder)),
        load_tokenizer=tokenizer_loader(folder, config.vocab_size),
        notes=notes,
        quants={} if pruned is None else pruned.quants,
    )


def parse_config(fields: Fields) -> ModelConfig:
    """The hyperparameters in a config.json, with the defaults of ``LlamaConfig``."""
    dim, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    max_seq_len = fields.integer("max_position_embeddings", 2048)
    rope = _rope_fields(fields)
    return ModelConfig(
        dim=dim,
        n_layers=fields.integer("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads", n_heads),
        head_dim=fields.integer("head_dim", dim // max(n_heads, 1)),
        ffn_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=rope.number("rope_theta", 10000.0),
        max_seq_len=max_seq_len,
        rope_scaling=_rope_scaling(rope, max_seq_len),
        tied_embeddings=bool(fields.values.get("tie_word_embeddings", False)),
        kept_tokens=fields.integers(KEPT_TOKENS),
    )


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model, in order.

    Raises:
        CheckpointError: The index names a file that is not there, or numbered files have a gap.
    """
    if (folder / INDEX).is_file():
        names = sorted(
            set(map(str, Fields(read_json(folder / INDEX), folder / INDEX).table("weight_map").values.values()))
        )
    else:
        names = _numbered(sorted(path.name for path in folder.glob("*.safetensors")))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise CheckpointError(
            f"{folder} lacks {len(missing) or 'all'} of its weight files",
            expected=listing(missing) or "*.safetensors",
            found=listing(sorted(path.name for path in folder.glob("*.safetensors"))) or "none",
            hint="finish the download",
        )
    return tuple(folder / name for name in names)


def _numbered(names: list[str]) -> list[str]:
    """``names``, and those that their own numbering (``-00002-of-00003``) says belong to them."""
    complete = set(names)
    for name in names:
        if part := SPLIT_SUFFIX.search(Path(name).stem):
            stem, count = Path(name).stem[: part.start()], int(part[2])
            complete.update(f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))
    return sorted(complete)


def _optional(folder: Path, *names: str) -> tuple[Path, ...]:
    return tuple(folder / name for name in names if (folder / name).is_file())


def _read_files(folder: Path, files: tuple[Path, ...]) -> dict[str, RowTensor]:
    found: dict[str, RowTensor] = {}
    for path in files:
        tensors = read_tensors(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(
                f"{folder}: tensors are stored twice",
                expected="every tensor in one file",
                found=f"{listing(twice)} again in {path.name}",
                hint="keep only the files of one model in the folder",
            )
        found.update(tensors)
    return found


def _refuse(raw: Mapping[str, Any], source: Path) -> None:
    architectures = raw.get("architectures")
    if isinstance(architectures, list) and architectures:
        refuse_architecture(str(architectures[0]), ARCHITECTURES, source)
    else:
        refuse_architecture(str(raw.get("model_type")), MODEL_TYPES, source)
    for refusal in REFUSALS:
        value = raw.get(refusal.key)
        if value not in refusal.allowed:
            raise UnsupportedModelError(
                f"{source}: {refusal.why}", expected=f"{refusal.key}: {refusal.allowed[-1]}", found=value
            )


def _rope_fields(fields: Fields) -> Fields:
    """``rope_parameters`` (transformers 5) over ``rope_scaling`` and ``rope_theta`` (before), as one table."""
    merged = {
        "rope_theta": fields.values.get("rope_theta"),
        **fields.table("rope_scaling").values,
        **fields.table("rope_parameters").values,
    }
    return Fields(merged, fields.source)


def _rope_scaling(rope: Fields, max_seq_len: int) -> RopeScaling | None:
    kind = rope.text("rope_type", rope.text("type", "default"))  # ``type`` was the key before transformers 4.43
    makers: dict[str, Callable[[], RopeScaling | None]] = {
        "default": lambda: None,
        "linear": lambda: RopeScaling("linear", rope.number("factor")),
        "llama3": lambda: RopeScaling(
            "llama3",
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_max_seq_len=rope.integer("original_max_position_embeddings", max_seq_len),
        ),
    }
    if kind not in makers:
        refuse_rope(kind, tuple(makers), rope.source)
    return makers[kind]()


def _interleave(tensors: Mapping[str, RowTensor], config: ModelConfig) -> dict[str, RowTensor]:
    """Reorder the rows of Q and K, which Hugging Face stores for ``rotate_half``, into the canonical order."""
    q = interleaved_from_half(config.n_heads, config.head_dim)
    k = interleaved_from_half(config.n_kv_heads, config.head_dim)
    order = {"wq": q, "wk": k}
    part = {name: name.split(".")[-2] for name in tensors}
    return {
        name: permute_rows(tensor, order[part[name]]) if part[name] in order else tensor
        for name, tensor in tensors.items()
    }
