"""An exported variant as another reader sees it: protobuf for the graph, maps of the data files for the weights.

Nothing of the writer is used: what a weight is follows from the nodes that read it and from the operators'
documentation (ONNX Runtime, ``docs/ContribOperators.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from exporter.checkpoint.fields import Fields, read_json
from exporter.checkpoint.huggingface import parse_config
from exporter.config import ModelConfig
from exporter.errors import CheckpointError
from exporter.names import expected_shapes
from exporter.rope import interleaved_from_half
from exporter.targets.onnx import names
from exporter.tensors import Array, RowTensor, permute_rows

if TYPE_CHECKING:
    import onnx

_WEIGHT_INPUT = {"Gemm": 1, "Gather": 0, "SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
"""Op -> its operand that is a plain weight, if it is an initializer with external data."""

_GATHERED_BITS = 8
"""An embedding that no ``MatMulNBits`` shares is stored a byte a weight."""


@dataclass(frozen=True)
class Stored:
    """An initializer in a data file."""

    array: Array
    dtype: ir.DataType


def read_config(folder: Path) -> ModelConfig:
    """The hyperparameters in a repository's ``config.json``."""
    path = folder / "config.json"
    return parse_config(Fields(read_json(path), path))


def read_weights(path: Path, config: ModelConfig) -> dict[str, RowTensor]:
    """Canonical name -> decoded weight of a model file.

    Raises:
        CheckpointError: If the file is no ONNX, or a data file is missing or short.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{path.name} is not an ONNX file", found=error) from None
    stored = {tensor.name: _mapped(tensor, path.parent) for tensor in graph.initializer if tensor.external_data}
    found: dict[str, RowTensor] = {}
    for name, tensor in _weights(graph, stored).items():
        found.update(_canonical(name, tensor, config))
    return found


def _mapped(tensor: onnx.TensorProto, folder: Path) -> Stored:
    """Format: onnx ``TensorProto.external_data``."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = ir.DataType(tensor.data_type)
    try:
        array = np.memmap(
            folder / entries["location"], dtype.numpy(), "r", int(entries["offset"]), tuple(int(d) for d in tensor.dims)
        )
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"the data of {tensor.name} cannot be read", found=error) from None
    return Stored(array, dtype)


def _weights(graph: onnx.GraphProto, stored: Mapping[str, Stored]) -> dict[str, RowTensor]:
    """Name in the file -> decoded matrix or vector."""
    found: dict[str, RowTensor] = {}
    gathered: dict[str, Stored] = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            name = node.input[1].removesuffix(".ints")
            bits = next(a.i for a in node.attribute if a.name == "bits")
            found[name] = _decoded(name, stored[node.input[1]], stored[node.input[2]], bits)
        elif node.op_type == "MatMulInteger":
            name = node.input[1].removesuffix(".ints")
            found[name] = _decoded_columns(name, stored[node.input[1]], stored[f"{name}.scales"])
        elif node.op_type in _WEIGHT_INPUT and node.input[_WEIGHT_INPUT[node.op_type]] in stored:
            name = node.input[_WEIGHT_INPUT[node.op_type]]
            if name.endswith((".ints", ".scales")):
                gathered[name] = stored[name]
            else:
                found[name] = _plain(name, stored[name])
    for name in (n.removesuffix(".ints") for n in gathered if n.endswith(".ints")):
        ints, scales = gathered[f"{name}.ints"], gathered[f"{name}.scales"]
        if name not in found and ints.array.ndim == 2:
            found[name] = _decoded_columns(name, ints, scales)
        elif name not in found:
            found[name] = _decoded(name, ints, scales, _GATHERED_BITS)
    return found


def _plain(name: str, stored: Stored) -> RowTensor:
    return RowTensor(name, stored.dtype, stored.array.shape, lambda a, b: np.asarray(stored.array[a:b]))


def _decoded(name: str, ints: Stored, scales: Stored, bits: int) -> RowTensor:
    n_rows, n_blocks, block_bytes = ints.array.shape
    per_byte = 8 // bits
    zero_point = 1 << bits - 1

    def read(start: int, stop: int) -> Array:
        packed = np.asarray(ints.array[start:stop])
        levels = np.empty((*packed.shape, per_byte), np.float32)
        for i in range(per_byte):
            levels[..., i] = (packed >> np.uint8(i * bits) & np.uint8((1 << bits) - 1)).astype(np.float32) - zero_point
        blocks = levels.reshape(stop - start, n_blocks, -1)
        values: Array = (blocks * scales.array[start:stop].astype(np.float32)[:, :, None]).reshape(stop - start, -1)
        return values

    return RowTensor(name, ir.DataType.FLOAT, (n_rows, n_blocks * block_bytes * per_byte), read)


def _decoded_columns(name: str, ints: Stored, scales: Stored) -> RowTensor:
    n_cols, n_rows = ints.array.shape

    def read(start: int, stop: int) -> Array:
        values: Array = ints.array[:, start:stop].T.astype(np.float32) * scales.array[start:stop, None]
        return values

    return RowTensor(name, ir.DataType.FLOAT, (n_rows, n_cols), read)


def _canonical(name: str, tensor: RowTensor, config: ModelConfig) -> Iterator[tuple[str, RowTensor]]:
    """A weight of the file under its canonical name, in canonical row order; a joined one as its parts."""
    shapes = expected_shapes(config)
    start = 0
    for canonical in names.parts(name):
        if canonical not in shapes:
            raise CheckpointError(f"{name} is no weight of a Llama", expected="a canonical name", found=canonical)
        n_rows = shapes[canonical][0]
        part = _slice(canonical, tensor, start, n_rows) if canonical != name else tensor
        heads = {"wq": config.n_heads, "wk": config.n_kv_heads}.get(canonical.split(".")[-2])
        if heads is not None:
            part = permute_rows(part, interleaved_from_half(heads, config.head_dim))
        yield canonical, part
        start += n_rows


def _slice(name: str, tensor: RowTensor, first: int, n_rows: int) -> RowTensor:
    shape = (n_rows, *tensor.dims[1:])
    return RowTensor(name, tensor.dtype, shape, lambda a, b: tensor.rows(first + a, first + b))
