"""Checkpoints that Meta has quantized itself: SpinQuant, and QLoRA (quantization-aware training with adaptors).

Every projection of a layer is int8 ``.weight [out, in]`` holding 4-bit values and float ``.scales [out, in / group]``;
embedding and head have 8 bits and one scale a row, ``[vocab]`` or ``[vocab, 1]``. Zero points (``.zeros``) need not be
stored and are zero. QLoRA has an adaptor beside every projection, ``.adaptor.A.weight [rank, in]`` and
``.adaptor.B.weight [out, rank]``; SpinQuant a Hadamard transform before ``w2`` that no tensor tells of.

Sources: llama_models ``llama3/args.py`` (``quantization_args``, ``lora_args``) and ``llama3/quantization/loader.py``
(names, shapes, zero points); executorch ``examples/models/llama/source_transformation``, its files
``pre_quantization.py``, ``lora.py`` and ``spin_quant.py``; for the transform, whose width has to be a power of two,
llama_stack ``models/llama/hadamard_utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.checkpoint.fields import Fields
from exporter.checkpoint.matching import listing
from exporter.config import ModelConfig
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.names import EMBEDDING, HEAD, expected_shapes
from exporter.tensors import Array, QuantizedRows, RowTensor, dequantized

SCHEME = "int4_weight_int8_dynamic_activation"
"""The only one that llama_models knows."""

_INT4 = (-8, 7)
_INT8 = (-128, 127)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SMALLEST = np.finfo(np.float32).smallest_normal
_DAMAGED = "download the checkpoint again"


@dataclass(frozen=True)
class Quantization:
    """What ``params.json`` says about it.

    Attributes:
        group_size: Columns of a projection that share a scale.
        hadamard: Whether ``w2`` expects its inputs Hadamard-transformed (SpinQuant).
        lora_rank: Rank of the adaptors; 0 without.
        lora_scale: What their outputs are multiplied by; 0 without.
    """

    group_size: int
    hadamard: bool
    lora_rank: int = 0
    lora_scale: float = 0.0

    @property
    def note(self) -> str:
        """One sentence for the user."""
        extra = " with a Hadamard transform before w2 (SpinQuant)" if self.hadamard else ""
        if self.lora_rank:
            extra += f" with adaptors of rank {self.lora_rank}, scaled by {self.lora_scale:g} (QLoRA)"
        return (
            f"weights quantized by Meta{extra}: layers of 4-bit integers in groups of {self.group_size}, embedding and "
            "head of 8 bits"
        )

    def config(self, plain: ModelConfig) -> ModelConfig:
        """The configuration of the unquantized model -> of this one."""
        return plain.replace(ffn_hadamard=self.hadamard, lora_rank=self.lora_rank, lora_scale=self.lora_scale)


def parse_quantization(fields: Fields) -> Quantization | None:
    """The quantization in a ``params.json``; ``None`` for float weights.

    Raises:
        CheckpointError: A field that is missing or makes no sense.
        UnsupportedModelError: Another scheme, or adaptors beside float weights.
    """
    if fields.values.get("quantization_args") is None:
        if fields.values.get("lora_args") is not None:
            raise UnsupportedModelError(
                f"{fields.source}: LoRA adaptors beside float weights are not supported",
                expected="lora_args with quantization_args, or neither",
                found=f"lora_args: {fields.values['lora_args']}",
                hint="merge the adaptors into the weights",
            )
        return None
    args, lora = fields.table("quantization_args"), fields.table("lora_args")
    scheme = args.text("scheme", SCHEME)
    if scheme != SCHEME:
        raise UnsupportedModelError(
            f"{fields.source}: weights quantized by the scheme {scheme} are not supported",
            expected=SCHEME,
            found=scheme,
            hint="export the bf16 checkpoint that this one was made from",
        )
    group_size = args.integer("group_size")
    rank, scale = (lora.integer("rank"), lora.number("scale")) if lora.values else (0, 0.0)
    if group_size <= 0 or (lora.values and (rank <= 0 or scale == 0)):
        raise CheckpointError(
            f"{fields.source} describes an impossible quantization",
            expected="a group_size > 0, a LoRA rank > 0 and a scale that is not 0",
            found=f"group_size {group_size}" + (f", rank {rank}, scale {scale:g}" if lora.values else ""),
        )
    return Quantization(group_size, _spinquant(args, lora), rank, scale)


def _spinquant(args: Fields, lora: Fields) -> bool:
    stated = args.values.get("spinquant")
    if isinstance(stated, bool):
        return stated
    if stated is None and lora.values:
        return False
    # No tensor tells, and with the wrong answer the model computes noise.
    raise CheckpointError(
        f"{args.source} does not say whether this is a SpinQuant checkpoint",
        expected='"spinquant": true or false in quantization_args, or lora_args',
        found="neither" if stated is None else f"spinquant: {stated!r}",
        hint='if its name says SpinQuant, add "spinquant": true to quantization_args; otherwise "spinquant": false',
    )


def require_one_file(files: Sequence[Path]) -> None:
    """How scales and adaptors would be cut into model-parallel parts, no published checkpoint shows.

    Raises:
        CheckpointError: There are several.
    """
    if len(files) > 1:
        raise CheckpointError(
            f"{files[0].parent} holds a quantized checkpoint in several files",
            expected="consolidated.00.pth alone, as Meta publishes them",
            found=listing(file.name for file in files),
            hint="join the files, or export the bf16 checkpoint that this one was made from",
        )


def quantized_tensors(
    found: Mapping[str, RowTensor], quantization: Quantization, config: ModelConfig, source: Fields
) -> dict[str, RowTensor]:
    """Integers and scales of each matrix as one tensor that decodes them; what else there is comes back as it is.

    No integer is read; each is checked when it is.

    Args:
        found: Name in the file -> tensor.
        quantization: What the file should hold.
        config: The model's, adaptors included.
        source: The ``params.json``, for messages.

    Raises:
        CheckpointError: Scales that are missing, left over or misshapen; adaptors that ``params.json`` does not know;
            a width that has no Hadamard transform.
    """
    _check_hadamard(config, source)
    _check_adaptors(found, quantization, source)
    matrices = {name: shape for name, shape in expected_shapes(config).items() if _is_quantized(name, shape)}
    parts = {f"{name.removesuffix('weight')}{kind}" for name in matrices for kind in ("scales", "zeros")}
    left = [name for name in found if name.endswith((".scales", ".zeros")) and name not in parts]
    missing = [name for name in matrices if name in found and f"{name.removesuffix('weight')}scales" not in found]
    if left or missing:
        raise CheckpointError(
            f"the scales beside {source.source} are not those of its matrices",
            expected=f"scales for {listing(missing)}" if missing else f"scales of {len(matrices)} matrices",
            found=listing(left) or "none",
            hint=_DAMAGED,
        )
    return {
        name: _matrix(name, found, quantization) if name in matrices else _floats(name, tensor)
        for name, tensor in found.items()
        if name not in parts
    }


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and ".adaptor." not in name


def _check_hadamard(config: ModelConfig, source: Fields) -> None:
    if config.ffn_hadamard and config.ffn_dim.bit_count() != 1:
        raise CheckpointError(
            f"{source.source}: no Hadamard transform has the width of the feed-forward layer",
            expected="a power of two, as llama_models asks for",
            found=config.ffn_dim,
            hint="this is not one of the SpinQuant checkpoints that Meta publishes: export their bf16 original",
        )


def _check_adaptors(found: Mapping[str, RowTensor], quantization: Quantization, source: Fields) -> None:
    """Beyond what is missing: that is found, by name and shape, with all other tensors."""
    adaptors = [name for name in found if ".adaptor." in name]
    if adaptors and not quantization.lora_rank:
        raise CheckpointError(
            f"{source.source} has no lora_args, but there are adaptors",
            expected="lora_args: their rank and scale",
            found=listing(adaptors),
            hint="use the params.json that came with the weights: without the scale the adaptors mean nothing",
        )


def _floats(name: str, tensor: RowTensor) -> RowTensor:
    if tensor.dtype not in _FLOATS:
        raise _misfit(name, "float", tensor)
    return tensor


def _matrix(name: str, found: Mapping[str, RowTensor], quantization: Quantization) -> RowTensor:
    stem, stored = name.removesuffix("weight"), found[name]
    scales, zeros = found[f"{stem}scales"], found.get(f"{stem}zeros")
    by_row = name in (EMBEDDING, HEAD)
    if stored.dtype != ir.DataType.INT8 or len(stored.dims) != 2:
        raise _misfit(name, "int8, two axes", stored)
    n_rows, n_cols = stored.dims
    block = n_cols if by_row else quantization.group_size
    if n_cols % block:
        raise CheckpointError(
            f"{name} does not divide into groups", expected=f"columns in multiples of {block}", found=n_cols
        )
    shape = n_rows, n_cols // block
    for part in filter(None, (scales, zeros)):
        dims = (*part.dims, 1) if by_row and len(part.dims) == 1 else part.dims
        if dims != shape or part.dtype not in _FLOATS:
            raise _misfit(str(part.name), f"float, {list(shape)}", part)
    dtype, bounds = (ir.DataType.INT8, _INT8) if by_row else (ir.DataType.INT4, _INT4)
    ints = RowTensor(name, dtype, stored.dims, lambda a, b: _bounded(name, stored.rows(a, b), bounds, a))
    return dequantized(name, QuantizedRows(ints, _scales(name, scales, zeros, shape), block))


def _bounded(name: str, rows: Array, bounds: tuple[int, int], start: int) -> Array:
    low, high = bounds
    if rows.size and (rows.min() < low or rows.max() > high):
        at = np.argwhere((rows < low) | (rows > high))[0]
        raise CheckpointError(
            f"{name} holds an integer that is not of its range",
            expected=f"{low} to {high}",
            found=f"{rows[tuple(at)]} at index {[int(start + at[0]), int(at[1])]}",
            hint=_DAMAGED,
        )
    return rows


def _scales(name: str, stored: RowTensor, zeros: RowTensor | None, shape: tuple[int, int]) -> RowTensor:
    """float32 ``shape``, checked as they are read: runtimes take positive ones only, and zero points of zero."""

    def read(start: int, stop: int) -> Array:
        rows = stored.rows_f32(start, stop).reshape(stop - start, shape[1])
        if not (good := rows >= _SMALLEST).all():  # written so that NaN fails
            at = np.argwhere(~good)[0]
            raise CheckpointError(
                f"{stored.name} holds a scale that is none",
                expected="positive, normal float32 numbers",
                found=f"{rows[tuple(at)]} at index {[int(start + at[0]), int(at[1])]}",
                hint=_DAMAGED,
            )
        if zeros is not None and zeros.rows(start, stop).any():
            raise CheckpointError(
                f"{zeros.name} holds a zero point that is not zero",
                expected="symmetric quantization",
                found=f"rows {start} to {stop}",
                hint="this is not one of the checkpoints that Meta publishes: export their bf16 original",
            )
        return rows

    return RowTensor(f"{name}.scales", ir.DataType.FLOAT, shape, read)


def _misfit(name: str, expected: str, tensor: RowTensor) -> CheckpointError:
    return CheckpointError(
        f"tensor {name} does not fit the quantization that params.json describes",
        expected=expected,
        found=f"{tensor.dtype.name.lower()}, {list(tensor.dims)}",
        hint="the params.json may belong to another checkpoint",
    )
