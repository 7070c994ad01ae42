"""Which ggml type each tensor of a Llama gets in one of llama-quantize's file types.

A file type is a base type and a few tensors that deserve better: the head, and in the ``_S`` and ``_M`` mixtures the
value and down projections of some layers. The rules are llama.cpp's for its architecture ``llama``, so that an export
equals llama-quantize's file tensor by tensor.

Source: llama.cpp v0.5.0, ``src/llama-quant.cpp`` (``tensor_allows_quantization``, ``llama_tensor_get_type_impl``,
``tensor_type_fallback``) and ``src/models/llama.cpp`` (what counts as the 70B).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exporter.errors import TargetError
from exporter.targets.gguf.encode import block_size

LayerRule = Callable[[int, int], bool]
"""``rule(layer, n_layers)``: whether the layer is an exception."""


def _more_bits(layer: int, n_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third in between (``use_more_bits``)."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def _first_eighth(layer: int, n_layers: int) -> bool:
    return layer < n_layers // 8


def _first_four(layer: int, _n_layers: int) -> bool:
    return layer < 4


@dataclass(frozen=True)
class FileType:
    """One row of the mixture table.

    Attributes:
        base: ggml type of every matrix without a rule of its own.
        better: Matrix name within a layer -> the type it gets instead, and in which layers.
        calibrated: The same where there is an importance matrix.
    """

    base: str
    better: Mapping[str, tuple[str, LayerRule]] = field(default_factory=dict)
    calibrated: Mapping[str, tuple[str, LayerRule]] = field(default_factory=dict)


FILE_TYPES: Mapping[str, FileType] = {
    "F32": FileType("F32"),
    "F16": FileType("F16"),
    "BF16": FileType("BF16"),
    "Q8_0": FileType("Q8_0"),
    "Q4_0": FileType("Q4_0", calibrated={"ffn_down": ("Q4_1", _first_eighth)}),
    "Q4_1": FileType("Q4_1"),
    "Q5_0": FileType("Q5_0", calibrated={"ffn_down": ("Q5_1", _first_eighth)}),
    "Q5_1": FileType("Q5_1"),
    "Q4_K_S": FileType("Q4_K", {"attn_v": ("Q5_K", _first_four), "ffn_down": ("Q5_K", _first_eighth)}),
    "Q4_K_M": FileType("Q4_K", {"attn_v": ("Q6_K", _more_bits), "ffn_down": ("Q6_K", _more_bits)}),
    "Q5_K_S": FileType("Q5_K"),
    "Q5_K_M": FileType("Q5_K", {"attn_v": ("Q6_K", _more_bits), "ffn_down": ("Q6_K", _more_bits)}),
    "Q6_K": FileType("Q6_K"),
}
"""llama-quantize's name -> rules; ``gguf.LlamaFileType`` has the numbers that ``general.file_type`` stores."""

NARROW_COLUMNS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What replaces a type whose superblocks of 256 do not fit the columns. Where blocks of 32 do not either, F16 does."""

FLOAT_TYPES = ("F32", "F16", "BF16")
_LAYER_MATRIX = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def tensor_types(
    ftype: str,
    tensors: Mapping[str, tuple[int, ...]],
    *,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    calibrated: bool = False,
) -> dict[str, str]:
    """GGUF tensor name -> ggml type, e.g. ``{"blk.0.attn_v.weight": "Q6_K", ...}``.

    Args:
        ftype: A key of ``FILE_TYPES``, llama-quantize's name in upper case.
        tensors: GGUF names and shapes ``(rows, columns)`` of the whole model; embeddings are tied if and only if
            ``output.weight`` is missing.
        n_layers, n_heads, n_kv_heads: Of the model. Grouped-query attention over 80 layers makes it "the 70B".
        calibrated: Whether there is an importance matrix.

    Raises:
        TargetError: unknown file type.
    """
    if ftype not in FILE_TYPES:
        raise TargetError(f"unknown GGUF file type {ftype}", expected=", ".join(FILE_TYPES), found=ftype)
    rules = FILE_TYPES[ftype]
    exceptions = {**rules.better, **(rules.calibrated if calibrated else {})}
    is_70b = n_layers == 80 and n_heads != n_kv_heads
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"

    def wanted(name: str, n_cols: int) -> str:
        if name == head:
            return _head_type(rules.base, n_cols)
        chosen = rules.base
        if match := _LAYER_MATRIX.fullmatch(name):
            layer, role = int(match[1]), match[2]
            if role in exceptions:
                better, applies = exceptions[role]
                chosen = better if applies(layer, n_layers) else chosen
            if is_70b and (role, chosen) == ("attn_v", "Q4_K"):
                chosen = "Q5_K"
        return chosen

    result = {}
    for name, shape in tensors.items():
        if not _is_matrix(name, shape):
            result[name] = "F32"
        elif rules.base in FLOAT_TYPES:
            result[name] = rules.base
        else:
            result[name] = _fitting(wanted(name, shape[-1]), shape[-1])
    return result


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama-quantize touches the tensor: norms and vectors (a single row included) stay float32."""
    return len(shape) == 2 and shape[0] > 1 and name.endswith("weight") and not name.endswith("_norm.weight")


def _head_type(base: str, n_cols: int) -> str:
    """The head, tied or not, is worth 6 bits even in a 4-bit file."""
    return "Q8_0" if base == "Q8_0" or n_cols % block_size(base) else "Q6_K"


def _fitting(type_name: str, n_cols: int) -> str:
    """``type_name``, or what llama-quantize falls back to where the columns do not fill its blocks."""
    for candidate in (type_name, NARROW_COLUMNS.get(type_name, "F16")):
        if n_cols % block_size(candidate) == 0:
            return candidate
    return "F16"
