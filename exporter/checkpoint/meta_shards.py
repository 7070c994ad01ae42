"""Meta's ``consolidated.NN.pth``: one per model-parallel rank, each with a slice of most weights.

Sources: fairscale's ``ColumnParallelLinear`` (splits the rows of ``[out, in]``), ``RowParallelLinear`` (splits the
columns) and the two embeddings Meta has used, as ``llama_models/llama3/model.py`` and ``checkpoint.py`` apply them.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter.config import ModelConfig
from exporter.errors import CheckpointError
from exporter.names import expected_shapes
from exporter.tensors import RowTensor, concat

if TYPE_CHECKING:
    import torch

Shards = Sequence[Mapping[str, RowTensor]]

DTYPES = {
    "torch.float32": ir.DataType.FLOAT,
    "torch.float16": ir.DataType.FLOAT16,
    "torch.bfloat16": ir.DataType.BFLOAT16,
}
"""Element types that a float weight may have."""

JOINS: dict[str, tuple[int, ...]] = {
    "wq": (0,),
    "wk": (0,),
    "wv": (0,),
    "wo": (-1,),
    "w1": (0,),
    "w2": (-1,),
    "w3": (0,),
    "output": (0,),
    # Llama 3 splits the vocabulary (VocabParallelEmbedding), Llama 1 and 2 the width (ParallelEmbedding).
    "tok_embeddings": (0, -1),
}
"""The axis along which the slices of a weight join; several where only the shapes tell. Others are whole in every
shard (norms, rotary tables)."""


def load_shard(path: Path, *, integers: bool = False) -> dict[str, RowTensor]:
    """The tensors of one file, memory-mapped: reading rows touches these rows only.

    Args:
        path: The file.
        integers: Whether it may hold int8, as quantized checkpoints do.

    Raises:
        CheckpointError: Truncated, a pickle of something else than weights, or an unexpected element type.
    """
    import torch

    if not zipfile.is_zipfile(path):  # the directory of a zip archive is its end: what a truncated one lacks
        raise CheckpointError(
            f"{path} is truncated or not a PyTorch checkpoint",
            expected="a zip archive as torch.save writes it",
            found=f"{path.stat().st_size:,} bytes that do not end like one",
            hint="download the file again",
        )
    try:
        stored = torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle that is not weights; it was not executed",
            expected="a dictionary of tensors",
            found=_refused_global(error),
            hint="do not trust this file; download the checkpoint from its publisher",
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or a damaged one",
            expected="an archive as torch.save writes it",
            found=str(error).splitlines()[0],
            hint="download the file again",
        ) from None
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        kinds = {type(value).__name__ for value in stored.values()} if isinstance(stored, dict) else type(stored)
        raise CheckpointError(
            f"{path} holds something else than weights", expected="a dictionary of tensors", found=kinds
        )
    known = DTYPES | {"torch.int8": ir.DataType.INT8} if integers else DTYPES
    return {name: _row_tensor(path, name, tensor, known) for name, tensor in stored.items()}


def join_shards(shards: Shards, config: ModelConfig, folder: Path) -> dict[str, RowTensor]:
    """Every tensor of the model, its slices joined; names and joined shapes are not checked here.

    Raises:
        CheckpointError: The shards do not fit each other, or are fewer than their slices add up to.
    """
    for name in sorted({name for shard in shards for name in shard}):
        kinds = {(shard[name].dims, shard[name].dtype) if name in shard else None for shard in shards}
        if len(kinds) > 1:
            raise CheckpointError(
                f"{folder}: the shards disagree about tensor {name}",
                expected="the same name, shape and type in every shard",
                found=", ".join(sorted("absent" if k is None else f"{k[1].name} {list(k[0])}" for k in kinds)),
                hint="the shards may come from different checkpoints",
            )
    expected = expected_shapes(config)
    _check_count(shards, expected, folder)
    return {name: _join(name, shards, expected.get(name)) for name in shards[0]}


def _check_count(shards: Shards, expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """A missing last shard leaves no gap in the numbering, but the slices say how many they are."""
    name = "layers.0.attention.wq.weight"
    rows = shards[0][name].dims[:1] if name in shards[0] else ()
    if rows in ((), (0,)):
        return
    count, rest = divmod(expected[name][0], rows[0])
    if not rest and count > len(shards):
        raise CheckpointError(
            f"{folder} lacks {count - len(shards)} of its weight files",
            expected=f"consolidated.00.pth to consolidated.{count - 1:02d}.pth",
            found=f"{len(shards)} of these {count} files",
            hint="finish the download; a model-parallel checkpoint needs every shard",
        )


def _join(name: str, shards: Shards, shape: tuple[int, ...] | None) -> RowTensor:
    slices = [shard[name] for shard in shards]
    axes = JOINS.get(name.split(".")[-2] if "." in name else name, ())
    if len(slices) == 1 or not axes or not slices[0].dims:
        return slices[0]
    joined = [concat(name, slices, axis) for axis in axes]
    return next((tensor for tensor in joined if tensor.dims == shape), joined[0])


def _row_tensor(path: Path, name: str, tensor: torch.Tensor, known: Mapping[str, ir.DataType]) -> RowTensor:
    import torch

    dtype = known.get(str(tensor.dtype))
    if dtype is None:
        raise CheckpointError(
            f"{path}: tensor {name} has an element type that no Llama weight has",
            expected=", ".join(known),
            found=tensor.dtype,
            hint="export the original checkpoint, not one that another tool has quantized",
        )
    # numpy has no bfloat16 of its own, so that the bits travel as integers; nothing is copied.
    bits = tensor.detach().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.detach()
    array = bits.numpy().view(dtype.numpy())
    array.flags.writeable = False
    return RowTensor(name, dtype, array.shape, lambda start, stop: array[start:stop])


def _refused_global(error: Exception) -> str:
    """What the pickle wanted to call, out of PyTorch's long explanation."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    return f"a call of {wanted[1]}" if wanted else str(error).splitlines()[0]
