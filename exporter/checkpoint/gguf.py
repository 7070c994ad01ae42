"""Checkpoints as llama.cpp runs them: one GGUF file, or several numbered parts, of architecture ``llama``.

Sources: llama.cpp ``src/llama-arch.cpp`` (keys), ``src/llama-model.cpp`` (defaults), ``conversion/llama.py`` (what the
converter writes). Q and K lie in Meta's order already. Blocks of a quantized file are dequantized row by row, and
stay available as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import onnx_ir as ir

from exporter.checkpoint.base import Checkpoint, ModelInfo
from exporter.checkpoint.fields import Fields, checked
from exporter.checkpoint.gguf_file import GgufFile, Metadata, StoredTensor, read_gguf
from exporter.checkpoint.info import SPLIT_SUFFIX, name_of_gguf
from exporter.checkpoint.mapped import mapped_rows, mapped_tensor
from exporter.checkpoint.matching import listing, match_tensors
from exporter.checkpoint.unsupported import EXPERTS, refuse_architecture, refuse_rope
from exporter.config import ModelConfig, RopeScaling
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.names import name_map
from exporter.rope import freq_factors
from exporter.tensors import Array, EncodedRows, RowTensor

if TYPE_CHECKING:
    from exporter.tokenizer import Tokenizer

ARCHITECTURES = ("llama",)
ROPE_FREQS = "rope_freqs.weight"
ROPE_TYPES = ("none", "linear")

PLAIN = {
    gguf.GGMLQuantizationType.F32: ir.DataType.FLOAT,
    gguf.GGMLQuantizationType.F16: ir.DataType.FLOAT16,
    gguf.GGMLQuantizationType.BF16: ir.DataType.BFLOAT16,
}
"""ggml types that are plain numbers; the others are blocks."""

PUBLISHED_SCALINGS = tuple(
    RopeScaling("llama3", factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192)
    for factor in (8.0, 32.0)
)
"""RoPE scalings of the published Llama 3.1, 3.2 and 3.3 models: ``rope_freqs.weight`` tells which one it came from."""


def open_gguf(path: Path, name: str | None = None) -> Checkpoint:
    """Open a file, or the first of numbered parts; no weight is read.

    Args:
        path: The ``.gguf`` file.
        name: Model name; from the file's name if not given.

    Raises:
        CheckpointError: Not GGUF, truncated, a missing part; missing, unknown or misshapen tensors.
        UnsupportedModelError: Another architecture, RoPE type or tensor type than this exporter can read.
    """
    files = [read_gguf(part) for part in _parts(path)]
    metadata = files[0].metadata
    refuse_architecture(str(metadata.get("general.architecture")), ARCHITECTURES, path)
    found = _tensors(files)
    rope_freqs = found.pop(ROPE_FREQS, None)
    factors = None if rope_freqs is None else rope_freqs.rows_f32(0, rope_freqs.n_rows)
    config = checked(parse_config(Fields(metadata, path), found, factors), path)
    names = name_map("gguf", "canonical", config.n_layers)
    return Checkpoint(
        path=path,
        format="gguf",
        config=config,
        tensors=match_tensors(path, found, names, config),
        info=_info(metadata, name or name_of_gguf(path)),
        files=tuple(file.path for file in files),
        load_tokenizer=lambda: _tokenizer(metadata, config.vocab_size),
        notes=_notes(found),
    )


def _notes(found: Mapping[str, RowTensor]) -> tuple[str, ...]:
    types = sorted({tensor.encoded.type_name for tensor in found.values() if tensor.encoded})
    if not types:
        return ()
    return (f"the source is quantized already ({', '.join(types)}): quality is measured against what it decodes to",)


def parse_config(fields: Fields, found: Mapping[str, RowTensor], factors: Array | None) -> ModelConfig:
    """The hyperparameters in the metadata, with llama.cpp's defaults.

    Args:
        fields: The metadata.
        found: The file's tensors; the embedding's height is the vocabulary, a missing head means a tied one.
        factors: Contents of ``rope_freqs.weight``, float32 ``[head_dim // 2]``, if the file has it.
    """
    if n_experts := fields.integer("llama.expert_count", 0):
        raise UnsupportedModelError(
            f"{fields.source}: {EXPERTS}", expected="a dense model", found=f"{n_experts} experts"
        )
    dim, n_heads = fields.integer("llama.embedding_length"), fields.integer("llama.attention.head_count")
    head_dim = fields.integer("llama.attention.key_length", dim // max(n_heads, 1))
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if fields.integer(key, head_dim) != head_dim:
            raise UnsupportedModelError(
                f"{fields.source}: {key} differs from the width of a head", expected=head_dim, found=fields.integer(key)
            )
    embedding = found.get("token_embd.weight")
    config = ModelConfig(
        dim=dim,
        n_layers=fields.integer("llama.block_count"),
        n_heads=n_heads,
        n_kv_heads=fields.integer("llama.attention.head_count_kv", n_heads),
        head_dim=head_dim,
        ffn_dim=fields.integer("llama.feed_forward_length"),
        vocab_size=fields.integer("llama.vocab_size", embedding.n_rows if embedding else None),
        norm_eps=_shortest(fields.number("llama.attention.layer_norm_rms_epsilon")),
        rope_theta=_shortest(fields.number("llama.rope.freq_base", 10000.0)),
        max_seq_len=fields.integer("llama.context_length"),
        tied_embeddings="output.weight" not in found,
    )
    return config.replace(rope_scaling=_rope_scaling(fields, config, factors))


def _rope_scaling(fields: Fields, config: ModelConfig, factors: Array | None) -> RopeScaling | None:
    kind = fields.text("llama.rope.scaling.type", "linear")  # llama.cpp's default, harmless without a factor
    if kind not in ROPE_TYPES:
        refuse_rope(kind, ROPE_TYPES, fields.source)
    factor = fields.number("llama.rope.scaling.factor", fields.number("llama.rope.scale_linear", 0.0))
    linear = RopeScaling("linear", factor) if kind == "linear" and factor not in (0.0, 1.0) else None
    if factors is None:
        return linear
    if linear:
        raise UnsupportedModelError(
            f"{fields.source}: linear RoPE scaling together with {ROPE_FREQS}", expected="one of them", found="both"
        )
    for scaling in PUBLISHED_SCALINGS:
        # The converter has computed the same in PyTorch, whose float32 power may differ in the last place.
        computed = freq_factors(config.replace(rope_scaling=scaling))
        if computed is not None and computed.shape == factors.shape and np.allclose(computed, factors, 1e-6, 0):
            return scaling
    return RopeScaling("factors", factors=tuple(factors.tolist()))


def _parts(path: Path) -> list[Path]:
    """The file itself, or all parts if its name is that of the first one (llama.cpp's ``llama_split_path``)."""
    split = SPLIT_SUFFIX.search(path.stem)
    if split is None:
        return [path]
    stem, count = path.stem[: split.start()], int(split[2])
    parts = [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    if int(split[1]) != 1:
        raise CheckpointError(
            f"{path} is not the first part of its model", expected=parts[0].name, found=path.name, hint="name the first"
        )
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of its {count} parts",
            expected=listing(missing),
            found=listing(part.name for part in parts if part.is_file()),
            hint="finish the download",
        )
    return parts


def _tensors(files: list[GgufFile]) -> dict[str, RowTensor]:
    found: dict[str, RowTensor] = {}
    for file in files:
        if twice := sorted(found.keys() & file.tensors.keys()):
            raise CheckpointError(
                f"{file.path}: tensors are stored twice", expected="every tensor in one part", found=listing(twice)
            )
        found.update({name: _row_tensor(file, stored) for name, stored in file.tensors.items()})
    return found


def _row_tensor(file: GgufFile, stored: StoredTensor) -> RowTensor:
    if stored.type in PLAIN:
        return mapped_tensor(stored.name, file.data, stored.offset, PLAIN[stored.type], stored.shape)
    if not _can_dequantize(stored.type):
        raise UnsupportedModelError(
            f"{file.path}: tensor {stored.name} has a type that gguf-py cannot dequantize",
            expected="F32, F16, BF16 or a quantized type of gguf-py",
            found=stored.type.name,
            hint="start from another file of the same model",
        )
    kind = stored.type
    blocks = mapped_rows(file.data, stored.offset, np.dtype(np.uint8), (stored.shape[0], stored.row_nbytes))
    return RowTensor(
        stored.name,
        ir.DataType.FLOAT,
        stored.shape,
        lambda start, stop: _dequantized(blocks(start, stop), kind),
        encoded=EncodedRows(kind.name, stored.row_nbytes, blocks),
    )


def _dequantized(blocks: Array, kind: gguf.GGMLQuantizationType) -> Array:
    with np.errstate(all="ignore"):  # a block of NaN is for its consumer to refuse, not for numpy to warn about
        values: Array = gguf.quants.dequantize(blocks, kind)
    return values


@cache
def _can_dequantize(kind: gguf.GGMLQuantizationType) -> bool:
    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: GGUF stores 1e-5 in 32 bits, which reads 9.99999974e-06."""
    return float(str(np.float32(value)))


def _info(metadata: Metadata, name: str) -> ModelInfo:
    base = str(metadata.get("general.base_model.0.repo_url", ""))
    return ModelInfo(
        name=name,
        license=str(metadata.get("general.license", "")),
        organization=str(metadata.get("general.organization", "")),
        languages=tuple(str(code) for code in metadata.get("general.languages", ())),
        base_model=base.removeprefix("https://huggingface.co/"),
    )


def _tokenizer(metadata: Metadata, vocab_size: int) -> Tokenizer:
    from exporter.tokenizer import from_gguf

    return from_gguf(metadata).padded(vocab_size)
