"""Which bytes each tensor of a GGUF gets: the meeting point of graph, file type and block formats.

A weight reaches the file on exactly one of three ways: untouched, when its source already has the wanted
type; packed, when the graph has chosen its integers; encoded, when the file type's own quantizer chooses them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from exporter.config import ModelConfig
from exporter.ir.weights import float_rows, is_quantized, quantized_parts
from exporter.targets.gguf import encode, types
from exporter.targets.gguf.encode import Floats
from exporter.targets.gguf.lower import LoweredTensor
from exporter.targets.gguf.streams import EncodedTensor
from exporter.tensors import Array, RowTensor

_FLOAT_TYPES = {ir.DataType.FLOAT: "F32", ir.DataType.FLOAT16: "F16", ir.DataType.BFLOAT16: "BF16"}
_BLOCK_TYPES = {ir.DataType.INT4: "Q4_0", ir.DataType.INT8: "Q8_0"}
"""Portable integers, group 32, are these formats' blocks: only the packing differs."""

_PACK: dict[str, Callable[[Array, Array], Array]] = {"Q4_0": encode.pack_q4_0, "Q8_0": encode.pack_q8_0}


def graph_types(tensors: list[LoweredTensor]) -> dict[str, str]:
    """GGUF name -> ggml type where the graph itself says how each weight is stored (portable names)."""
    result = {}
    for tensor in tensors:
        if is_quantized(tensor.weight):
            result[tensor.name] = _BLOCK_TYPES[quantized_parts(tensor.weight)[0].dtype]
        else:
            result[tensor.name] = _FLOAT_TYPES[float_rows(tensor.weight).dtype]
    return result


def native_types(
    ftype: str, tensors: list[LoweredTensor], config: ModelConfig, calibrated: bool = False
) -> dict[str, str]:
    """GGUF name -> ggml type by llama-quantize's rules for a file type, with an importance matrix or without one."""
    return types.tensor_types(
        ftype,
        {t.name: t.shape for t in tensors},
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        calibrated=calibrated,
    )


def encoded_tensor(tensor: LoweredTensor, type_name: str, importance: Floats | None = None) -> EncodedTensor:
    """Decide how one tensor's bytes are made; ``importance`` of its columns is for the file type's own quantizer."""
    rows = float_rows(tensor.weight)
    if rows.encoded is not None and rows.encoded.type_name == type_name:
        return _stream(tensor, type_name, rows, rows.encoded.read)
    if not is_quantized(tensor.weight) and _FLOAT_TYPES[rows.dtype] == type_name:
        return _stream(tensor, type_name, rows, rows.rows)
    if is_quantized(tensor.weight):
        ints, scales, _ = quantized_parts(tensor.weight)
        pack = _PACK[type_name]
        return _stream(tensor, type_name, ints, lambda a, b: pack(ints.rows(a, b), scales.rows_f32(a, b)))

    return _stream(tensor, type_name, rows, lambda a, b: encode.encode_rows(rows.rows(a, b), type_name, importance))


def _stream(
    tensor: LoweredTensor, type_name: str, source: RowTensor, make: Callable[[int, int], Array]
) -> EncodedTensor:
    n_rows = 1 if len(tensor.shape) == 1 else tensor.shape[0]
    nbytes = n_rows * encode.row_nbytes(type_name, tensor.shape[-1])
    return EncodedTensor(tensor.name, type_name, nbytes, source, make)


def decoded(tensor: EncodedTensor, shape: tuple[int, ...]) -> RowTensor:
    """What a reader of the file must find: the encoded bytes decoded again, as float32 rows."""

    def read(start: int, stop: int) -> Array:
        blocks = np.ascontiguousarray(tensor.encode(start, stop)).view(np.uint8)
        if len(shape) == 1:  # a vector is one row, of which this is a piece
            return encode.decode_rows(blocks.reshape(-1), tensor.type_name, stop - start)
        return encode.decode_rows(blocks.reshape(stop - start, -1), tensor.type_name, shape[-1])

    return RowTensor(tensor.name, ir.DataType.FLOAT, shape, read)


def all_types(
    ftype: str, portable: bool, tensors: list[LoweredTensor], config: ModelConfig, calibrated: bool = False
) -> dict[str, str]:
    """GGUF name -> ggml type for a capability row."""
    return graph_types(tensors) if portable else native_types(ftype, tensors, config, calibrated)
