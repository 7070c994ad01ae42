"""The safetensors container: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.

Source: the format section of the safetensors README (huggingface/safetensors). Read here without that package,
whose slices are copies and whose numpy binding does not know bfloat16.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporter.checkpoint.mapped import Bytes, map_file, mapped_tensor
from exporter.errors import CheckpointError
from exporter.tensors import RowTensor

DTYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
"""Element types that a weight may have."""

_AGAIN = "download the file again"


def read_tensors(path: Path) -> dict[str, RowTensor]:
    """The tensors of one file under their own names; reads the header only.

    Raises:
        CheckpointError: Not safetensors, truncated, or an element type other than F32, F16, BF16.
    """
    data = map_file(path)
    header, start = _header(path, data)
    stored = len(data) - start
    promised = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if promised != stored:
        raise CheckpointError(
            f"{path} is {'truncated' if stored < promised else 'longer than its header says'}",
            expected=f"{start + promised:,} bytes",
            found=f"{len(data):,} bytes",
            hint=_AGAIN,
        )
    return {name: _tensor(path, name, entry, data, start) for name, entry in header.items()}


def _header(path: Path, data: Bytes) -> tuple[dict[str, dict[str, Any]], int]:
    """The tensor entries, and the offset of the first data byte."""
    length = struct.unpack("<Q", data[:8].tobytes())[0] if len(data) >= 8 else 0
    if not 2 <= length <= len(data) - 8:
        raise CheckpointError(
            f"{path} is not a complete safetensors file",
            expected=f"a header of {length:,} bytes",
            found=f"{len(data):,} bytes in all",
            hint=_AGAIN,
        )
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (begin, end - begin, *entry["shape"])):
                raise ValueError(f"shape {entry['shape']} at {begin}..{end}")
            entry["dtype"]  # must be there
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} has no readable safetensors header", expected="a JSON header", found=str(error), hint=_AGAIN
        ) from None
    return header, 8 + length


def _tensor(path: Path, name: str, entry: dict[str, Any], data: Bytes, start: int) -> RowTensor:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{path}: tensor {name} has an element type that no Llama weight has",
            expected=", ".join(DTYPES),
            found=entry["dtype"],
            hint="export the original checkpoint, not one that another tool has quantized",
        )
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    needed = math.prod(shape) * int(dtype.itemsize)
    if needed != end - begin:
        raise CheckpointError(
            f"{path}: tensor {name} has another size than its shape {list(shape)} needs",
            expected=f"{needed:,} bytes",
            found=f"{end - begin:,} bytes",
            hint=_AGAIN,
        )
    return mapped_tensor(name, data, start + begin, dtype, shape)
