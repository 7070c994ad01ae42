"""A ``.pte`` as another reader sees it: executorch's own flatbuffer compiler for the tables, a map for the weights.

What a weight is follows from the operators that read it: the constants of the program's kernels, and in XNNPACK's
delegates the matrices of ``XNNFullyConnected`` with their encodings (``backends/xnnpack/serialization/schema.fbs``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from exporter.checkpoint.fields import Fields, read_json
from exporter.checkpoint.huggingface import parse_config
from exporter.config import ModelConfig
from exporter.errors import CheckpointError
from exporter.ir.build import KEPT_TOKENS
from exporter.names import EMBEDDING, HEAD, adaptor_names
from exporter.quant.packing import unpack_4
from exporter.rope import interleaved_from_half, inv_freq, rotary_rows
from exporter.targets.executorch import wheel
from exporter.targets.executorch.rotary import COS, SIN
from exporter.targets.executorch.weights import swap_pairs
from exporter.tensors import Array, RowTensor, permute_rows

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "BFLOAT16": np.dtype(ml_dtypes.bfloat16),
    "HALF": np.dtype(np.float16),
    "CHAR": np.dtype(np.int8),
    "BYTE": np.dtype(np.uint8),
    "LONG": np.dtype(np.int64),
}

_FIRST = "layers.0.attention.wq.weight"

_HEAD_BYTES = 40
"""The flatbuffer's first eight bytes and the header that is inserted there."""


@dataclass(frozen=True)
class _Filter:
    """A matrix of a delegate: its table, and the delegate's list of constants."""

    table: dict[str, Any]
    constants: list[dict[str, Any]]


class PteFile:
    """A program on the disk.

    Args:
        path: The ``.pte`` file.
        data: The ``.ptd`` file of its weights, if they have one.

    Raises:
        CheckpointError: If the file is none.
        TargetError: If its tables are damaged.
    """

    def __init__(self, path: Path, data: Path | None = None) -> None:
        if path.stat().st_size < _HEAD_BYTES:
            raise CheckpointError(f"{path.name} is too short for a program", found=f"{path.stat().st_size} bytes")
        self._data = np.memmap(path, np.uint8, "r")
        head = bytes(self._data[:_HEAD_BYTES])
        if head[8:12] != b"eh00":
            raise CheckpointError(f"{path.name} is not an ExecuTorch program with segments", found=head[4:12])
        size, self._base = struct.unpack_from("<QQ", head, 16)
        self._program = wheel.decode(wheel.PROGRAM, bytes(self._data[:size]))
        self._data_file = None if data is None else PtdFile(data)
        self.plans: dict[str, dict[str, Any]] = {plan["name"]: plan for plan in self._program["execution_plan"]}

    @property
    def forward(self) -> dict[str, Any]:
        return self.plans["forward"]

    def constant(self, name: str) -> int:
        """What a constant method returns."""
        return int(self.plans[name]["values"][0]["val"]["int_val"])

    def constants(self, name: str) -> list[int]:
        """All that a constant method returns, truth values as numbers."""
        plan = self.plans[name]
        values = [plan["values"][index]["val"] for index in plan["outputs"]]
        return [int(value["int_val"] if "int_val" in value else value["bool_val"]) for value in values]

    @property
    def payloads(self) -> list[Array]:
        """What each delegate reads, mapped."""
        return [self.segment(delegate["processed"]["index"]) for delegate in self.forward["delegates"]]

    @property
    def kernel_calls(self) -> list[str]:
        """What is called beside the delegates, one name a call."""
        plan = self.forward
        calls = (i["instr_args"] for i in plan["chains"][0]["instructions"] if i["instr_args_type"] == "KernelCall")
        return [plan["operators"][call["op_index"]]["name"] for call in calls]

    def segment(self, index: int) -> Array:
        """Its bytes, mapped."""
        entry = self._program["segments"][index]
        start = self._base + entry["offset"]
        found = self._data[start : start + entry["size"]]
        if len(found) != entry["size"]:
            raise CheckpointError("the file ends before its weights do", expected=entry["size"], found=len(found))
        return found

    def calls(self, operator: str) -> Iterator[list[dict[str, Any]]]:
        """The operands of each call of a kernel."""
        plan = self.forward
        for instruction in plan["chains"][0]["instructions"]:
            call = instruction["instr_args"]
            if (
                instruction["instr_args_type"] == "KernelCall"
                and plan["operators"][call["op_index"]]["name"] == operator
            ):
                yield [plan["values"][index]["val"] for index in call["args"]]

    @cached_property
    def named(self) -> dict[str, Array]:
        """Key -> bytes of what delegates read by name."""
        found = {} if self._data_file is None else dict(self._data_file.named)
        return found | {entry["key"]: self.segment(entry["segment_index"]) for entry in self._program["named_data"]}

    @cached_property
    def tensors(self) -> dict[str, Array]:
        """Name -> array of the program's constants."""
        where = self._program["constant_segment"]
        data, offsets = self.segment(where["segment_index"]), where["offsets"]
        found = {}
        for value in self.forward["values"]:
            tensor = value["val"]
            if value["val_type"] != "Tensor" or "extra_tensor_info" not in tensor:
                continue
            dtype, shape = _DTYPES[tensor["scalar_type"]], tensor["sizes"]
            info = tensor["extra_tensor_info"]
            name, nbytes = info["fully_qualified_name"], dtype.itemsize * int(np.prod(shape))
            start = offsets[tensor["data_buffer_idx"]]
            raw = self.named[name] if info["location"] == "EXTERNAL" else data[start : start + nbytes]
            found[name] = raw.view(dtype).reshape(shape)
        return found

    @cached_property
    def filters(self) -> list[_Filter]:
        """The matrices of all delegates."""
        found = []
        for delegate in self.forward["delegates"]:
            blob = bytes(self.segment(delegate["processed"]["index"]))
            start, size = struct.unpack_from("<II", blob, 10)
            graph = wheel.decode(wheel.XNNPACK, blob[start : start + size])
            for node in graph["xnodes"]:
                if node["xnode_union_type"] == "XNNFullyConnected":
                    value = graph["xvalues"][node["xnode_union"]["filter_id"]]["xvalue_union"]
                    found.append(_Filter(value, graph["constant_data"]))
        return found


class PtdFile:
    """Weights on the disk.

    Raises:
        CheckpointError: If the file is none, or shorter than its tables say.
        TargetError: If its tables are damaged.
    """

    def __init__(self, path: Path) -> None:
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        head = bytes(data[:48])
        if head[8:12] != b"FH01":
            raise CheckpointError(f"{path.name} is not a data file of ExecuTorch", found=head[4:12])
        begin, size, base = struct.unpack_from("<QQQ", head, 16)
        document = wheel.decode(wheel.FLAT_TENSOR, bytes(data[: begin + size]))
        self.named: dict[str, Array] = {}
        for entry in document["named_data"]:
            segment = document["segments"][entry["segment_index"]]
            start = base + segment["offset"]
            found = data[start : start + segment["size"]]
            if len(found) != segment["size"]:
                raise CheckpointError(f"{path.name} is too short", expected=segment["size"], found=len(found))
            self.named[entry["key"]] = found


def read_config(file: PteFile, folder: Path) -> ModelConfig:
    """The hyperparameters: as the program computes, and from ``config.json`` the formula of its rotary table.

    Raises:
        CheckpointError: If the formula does not give the table.
    """
    path = folder / "config.json"
    described = parse_config(Fields(read_json(path), path))
    attentions = list(file.calls("llama::custom_sdpa"))
    query, cache = attentions[0][0]["sizes"], attentions[0][1]["sizes"]
    table, *_, embedded = _embedding(file)
    vocab_size, dim = table["sizes"][0], embedded["sizes"][-1]
    matrices = {name: tensor.dims for name, tensor in _matrices(file)}
    kept = file.tensors.get(KEPT_TOKENS)
    config = ModelConfig(
        dim=dim,
        n_layers=len(attentions),
        n_heads=query[2],
        n_kv_heads=cache[2],
        head_dim=cache[3],
        ffn_dim=matrices["layers.0.feed_forward.w1.weight"][0],
        vocab_size=vocab_size,
        norm_eps=float(file.tensors["norm_eps"][0]),
        rope_theta=described.rope_theta,
        rope_scaling=described.rope_scaling,
        max_seq_len=cache[1],
        tied_embeddings=HEAD not in matrices,
        kept_tokens=None if kept is None else tuple(kept.reshape(-1).tolist()),
        ffn_hadamard=_has_hadamard(file, len(attentions)),
        lora_rank=matrices.get(adaptor_names(_FIRST)[0], [0])[0],
        lora_scale=float(file.tensors.get("lora_scale", [0.0])[0]),
    )
    for name, function in ((COS, np.cos), (SIN, np.sin)):
        expected = rotary_rows(inv_freq(config), function, 0, config.max_seq_len)
        if not np.array_equal(file.tensors[name], expected):
            raise CheckpointError(
                f"{name} does not rotate as config.json says", found=f"rope_theta {config.rope_theta:g}"
            )
    return config


def _has_hadamard(file: PteFile, n_layers: int) -> bool:
    found = len(list(file.calls("llama::fast_hadamard_transform")))
    if found not in (0, n_layers):
        raise CheckpointError(
            "some layers have a Hadamard transform and some have not", expected=f"0 or {n_layers}", found=found
        )
    return found > 0


_EMBEDDINGS = (
    "aten::embedding",
    "quantized_decomposed::embedding_byte",
    "quantized_decomposed::embedding_4bit",
)


def _embedding(file: PteFile) -> list[dict[str, Any]]:
    calls = [call for operator in _EMBEDDINGS for call in file.calls(operator)]
    if len(calls) != 1:
        raise CheckpointError("the program has no embedding", expected="one", found=len(calls))
    return calls[0]


def _tensor(filter_: _Filter) -> dict[str, Any]:
    tensor: dict[str, Any] = filter_.table.get("tensor_value", filter_.table)
    return tensor


def _name(filter_: _Filter) -> str:
    key: str = filter_.constants[_tensor(filter_)["constant_buffer_idx"]]["named_key"]
    return key.removesuffix(".ints")


def read_weights(file: PteFile, config: ModelConfig) -> dict[str, RowTensor]:
    """Canonical name -> decoded weight, in canonical row order."""
    found = {
        name: _plain(name, array)
        for name, array in file.tensors.items()
        if name.endswith("norm.weight") or name == EMBEDDING
    }
    if f"{EMBEDDING}.ints" in file.tensors:
        found[EMBEDDING] = _table(file.tensors[f"{EMBEDDING}.ints"], file.tensors[f"{EMBEDDING}.scales"])
    rotated = _rotated_heads(config)
    for name, tensor in _matrices(file):
        if name == EMBEDDING:
            found[name] = _same(found[name], tensor)
            continue
        heads = rotated.get(name)
        order = None if heads is None else interleaved_from_half(heads, config.head_dim)
        found[name] = tensor if order is None else permute_rows(tensor, order)
    return found


def _rotated_heads(config: ModelConfig) -> dict[str, int]:
    """Canonical name -> heads of every weight whose rows are rotated, adaptors included."""
    found: dict[str, int] = {}
    for layer in range(config.n_layers):
        for kind, heads in (("wq", config.n_heads), ("wk", config.n_kv_heads)):
            name = f"layers.{layer}.attention.{kind}.weight"
            found |= {name: heads, adaptor_names(name)[1]: heads}
    return found


def _matrices(file: PteFile) -> Iterator[tuple[str, RowTensor]]:
    """Name and decoded weight of what delegates and kernels multiply with, in the program's row order."""
    for filter_ in file.filters:
        name, tensor = _name(filter_), _decoded(file, filter_)
        # A head whose integers are the embedding's 4-bit ones multiplies with columns exchanged in pairs.
        yield name, _swapped(tensor) if name == EMBEDDING and _is_4_bit(filter_) else tensor
    for _, matrix, *_ in file.calls("aten::linear"):
        name = matrix["extra_tensor_info"]["fully_qualified_name"]
        yield name, _plain(name, file.tensors[name])
    for _, ints, scales, *_ in file.calls("quantized_decomposed::mixed_linear"):
        key, steps = (operand["extra_tensor_info"]["fully_qualified_name"] for operand in (ints, scales))
        yield (name := key.removesuffix(".ints")), _rows(name, file.tensors[key], file.tensors[steps])


def _is_4_bit(filter_: _Filter) -> bool:
    return bool(_tensor(filter_)["datatype"] == "xnn_datatype_qbint4")


def _decoded(file: PteFile, filter_: _Filter) -> RowTensor:
    tensor, name = _tensor(filter_), _name(filter_)
    n_rows, n_cols = tensor["dims"]
    data = file.named[filter_.constants[tensor["constant_buffer_idx"]]["named_key"]]
    if tensor["datatype"] == "xnn_datatype_fp32":
        return _plain(name, data.view(np.float32).reshape(n_rows, n_cols))
    parameters = filter_.table["quant_params"]
    steps = file.named[filter_.constants[parameters["scale_buffer_idx"]]["named_key"]]
    if tensor["datatype"] == "xnn_datatype_qcint8":
        return _rows(name, data.view(np.int8).reshape(n_rows, n_cols), steps.view(np.float32))
    if not _is_4_bit(filter_):
        raise CheckpointError(f"{name} is stored in a type that is not known here", found=tensor["datatype"])
    scales = steps.view(ml_dtypes.bfloat16).reshape(n_rows, n_cols // parameters["group_size"])
    return _groups(name, data.reshape(n_rows, n_cols // 2), scales)


def _table(ints: Array, scales: Array) -> RowTensor:
    """The embedding of a program that reads integers."""
    return _rows(EMBEDDING, ints, scales) if ints.dtype == np.int8 else _swapped(_groups(EMBEDDING, ints, scales))


def _same(table: RowTensor, matrix: RowTensor) -> RowTensor:
    """A tied embedding: what its kernel decodes, which the head must decode as well.

    Raises:
        CheckpointError: On reading rows that the two decode differently.
    """

    def read(start: int, stop: int) -> Array:
        rows = table.rows(start, stop)
        if not np.array_equal(rows, matrix.rows(start, stop)):
            raise CheckpointError("embedding and head share their integers and not their scales", found=EMBEDDING)
        return rows

    return RowTensor(EMBEDDING, ir.DataType.FLOAT, table.dims, read)


def _swapped(tensor: RowTensor) -> RowTensor:
    return RowTensor(str(tensor.name), tensor.dtype, tensor.dims, lambda a, b: swap_pairs(tensor.rows(a, b)))


def _groups(name: str, packed: Array, scales: Array) -> RowTensor:
    """4-bit integers ``[rows, columns / 2]``, the even column in the lower half, times scales ``[rows, groups]``."""
    shape = len(packed), 2 * packed.shape[1]

    def read(start: int, stop: int) -> Array:
        ints = unpack_4(np.asarray(packed[start:stop])).reshape(stop - start, scales.shape[1], -1)
        values: Array = (ints * scales[start:stop].astype(np.float32)[:, :, None]).reshape(stop - start, shape[1])
        return values

    return RowTensor(name, ir.DataType.FLOAT, shape, read)


def _plain(name: str, array: Array) -> RowTensor:
    return RowTensor(name, ir.DataType.from_numpy(array.dtype), array.shape, lambda a, b: np.asarray(array[a:b]))


def _rows(name: str, ints: Array, scales: Array) -> RowTensor:
    """8-bit integers ``[rows, columns]`` times scales ``[rows]`` or ``[rows, groups]``."""

    def read(start: int, stop: int) -> Array:
        groups = ints[start:stop].reshape(stop - start, scales.size // len(scales), -1)
        values: Array = groups * scales[start:stop].reshape(stop - start, -1, 1)
        return values.reshape(stop - start, ints.shape[1])

    return RowTensor(name, ir.DataType.FLOAT, ints.shape, read)
