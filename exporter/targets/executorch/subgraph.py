"""A graph for the XNNPACK backend, as its schema spells it (``backends/xnnpack/serialization/schema.fbs``).

Shapes are tuples of integers; ``0`` stands for the number of tokens, which XNNPACK infers when it runs. In a reshape
that is what XNNPACK itself writes for the one dimension it infers (``xnn_define_static_reshape``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from exporter.targets.executorch import wheel

Shape = tuple[int, ...]
TOKENS = 0
"""In a shape: as many as there are tokens."""

_NONE = (1 << 32) - 1
"""``XNN_INVALID_VALUE_ID``; also the external id of an internal value."""
_NAMED = (1 << 64) - 1
"""Offset of a constant that lies under a name in the program and not behind the graph."""
_EXTERNAL_INPUT, _EXTERNAL_OUTPUT = 1, 2
_KEEP_DIMS = 0x40
"""``XNN_FLAG_KEEP_DIMS`` (``backends/xnnpack/utils/xnnpack_constants.py``)."""
_ALIGNMENT = 16
_HEADER = 32
"""Bytes before the flatbuffer: the header of 30 bytes, padded."""


@dataclass(frozen=True)
class Constant:
    """Bytes that the program holds under a name."""

    key: str
    nbytes: int


@dataclass
class Subgraph:
    """A graph under construction. See :class:`exporter.targets.executorch.program.Delegate`.

    Attributes:
        max_tokens: Upper bound of ``TOKENS``.
        inputs: Value ids that come from outside, in the order of the call's arguments.
        outputs: Value ids that go outside; they follow the inputs.
    """

    backend: ClassVar[str] = "XnnpackBackend"
    compile_specs: ClassVar[Mapping[str, bytes]] = MappingProxyType({})

    max_tokens: int
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    _shapes: list[Shape] = field(default_factory=list)
    _values: list[dict[str, Any]] = field(default_factory=list)
    _nodes: list[dict[str, Any]] = field(default_factory=list)
    _constants: list[dict[str, Any]] = field(default_factory=lambda: [{"offset": 0, "size": 0, "named_key": ""}])
    _quantized: dict[int, int] = field(default_factory=dict)

    @property
    def constant_keys(self) -> list[str]:
        """Names of the constants that it reads."""
        return [entry["named_key"] for entry in self._constants[1:]]

    def shape(self, value: int) -> Shape:
        return self._shapes[value]

    def input(self, shape: Shape) -> int:
        self.inputs.append(self._value(shape, "fp32"))
        return self.inputs[-1]

    def constant(self, constant: Constant, shape: Shape) -> int:
        """A float32 constant."""
        return self._value(shape, "fp32", buffer=self._buffer(constant))

    def int8_rows(self, blobs: Sequence[Constant], shape: Shape) -> int:
        """A matrix of int8 with a float32 scale a row; ``blobs`` are its integers and scales."""
        ints, scales = blobs
        buffer = self._buffer(ints)
        quantization = {
            "scale": [], "channel_dim": 0, "scale_buffer_idx": self._buffer(scales), "num_scales": shape[0],
        }  # fmt: skip
        return self._value(shape, "qcint8", buffer=buffer, quantization=("PerChannelQuant", quantization))

    def int4_groups(self, blobs: Sequence[Constant], shape: Shape, group: int) -> int:
        """A matrix of two 4-bit integers a byte with a bfloat16 scale for each ``group`` of a row."""
        ints, scales = blobs
        buffer = self._buffer(ints)
        quantization = {
            "scale": [], "channel_dim": 0, "group_size": group,
            "scale_buffer_idx": self._buffer(scales), "num_scales": shape[0] * (shape[1] // group),
        }  # fmt: skip
        return self._value(shape, "qbint4", buffer=buffer, quantization=("PerChannelGroupQuant", quantization))

    def linear(self, x: int, matrix: int) -> int:
        """``x [n, in] @ matrix[out, in].T``."""
        return self._node(
            "XNNFullyConnected", (self._shapes[x][0], self._shapes[matrix][0]),
            input1_id=x, filter_id=matrix, bias_id=_NONE,
        )  # fmt: skip

    def rounded(self, x: int) -> int:
        """``x`` as int8 with a scale and zero point a token, computed when it runs; once for all who ask."""
        if x not in self._quantized:
            value = self._value(
                self._shapes[x], "qdint8", quantization=("PerTokenDynamicQuant", {"num_nonbatch_dims": 1})
            )
            self._emit("XNNConvert", input_id=x, output_id=value)
            self._quantized[x] = value
        return self._quantized[x]

    def add(self, x: int, y: int) -> int:
        """``y`` may have dimensions of 1 where ``x`` is wider, here and in the other two."""
        return self._node("XNNAdd", self._shapes[x], input1_id=x, input2_id=y)

    def subtract(self, x: int, y: int) -> int:
        return self._node("XNNSubtract", self._shapes[x], input1_id=x, input2_id=y)

    def multiply(self, x: int, y: int) -> int:
        return self._node("XNNMultiply", self._shapes[x], input1_id=x, input2_id=y)

    def sigmoid(self, x: int) -> int:
        return self._node("XNNSigmoid", self._shapes[x], input_id=x)

    def rsqrt(self, x: int) -> int:
        return self._node("XNNReciprocalSquareRoot", self._shapes[x], input_id=x)

    def reshape(self, x: int, shape: Shape) -> int:
        return self._node("XNNStaticReshape", shape, num_dims=len(shape), new_shape=list(shape), input_id=x)

    def mean(self, x: int) -> int:
        """Mean of each row of ``x [n, width]``, ``[n, 1]``: a pooling over an image with one channel."""
        n, width = self._shapes[x]
        pooled = self._node(
            "XNNGlobalAvgPooling2d", (n, 1, 1, 1), flags=_KEEP_DIMS, input_id=self.reshape(x, (n, width, 1, 1))
        )
        return self.reshape(pooled, (n, 1))

    def columns(self, x: int, start: int, stop: int) -> int:
        """Part of the last axis."""
        shape = self._shapes[x]
        # A size of 0 takes what there is (XNNPACK, src/subgraph/static-slice.c).
        return self._node(
            "XNNStaticSlice", (*shape[:-1], stop - start),
            num_dims=len(shape), offsets=[*(0 for _ in shape[:-1]), start], sizes=[*shape[:-1], stop - start],
            input_id=x,
        )  # fmt: skip

    def joined(self, x: int, y: int) -> int:
        """Two values side by side along the last axis."""
        shape = self._shapes[x]
        return self._node(
            "XNNConcatenate2", (*shape[:-1], shape[-1] + self._shapes[y][-1]),
            axis=len(shape) - 1, input1_id=x, input2_id=y, input3_id=_NONE, input4_id=_NONE, input5_id=_NONE,
        )  # fmt: skip

    def serialized(self) -> bytes:
        """The header, and the flatbuffer behind it."""
        for place, value in enumerate((*self.inputs, *self.outputs)):
            table = self._values[value]["xvalue_union"]
            tensor = table.get("tensor_value", table)
            tensor["external_id"] = place
            tensor["flags"] = _EXTERNAL_INPUT if place < len(self.inputs) else _EXTERNAL_OUTPUT
        graph = {
            "version": "0",
            "xnodes": self._nodes,
            "xvalues": self._values,
            "num_externs": len(self.inputs) + len(self.outputs),
            "input_ids": self.inputs,
            "output_ids": self.outputs,
            "constant_data": self._constants,
        }
        body = wheel.encode(wheel.XNNPACK, graph)
        padded = -(-len(body) // _ALIGNMENT) * _ALIGNMENT
        header = b"\0\0\0\0XH00" + b"".join(
            number.to_bytes(size, "little")
            for number, size in ((30, 2), (_HEADER, 4), (len(body), 4), (_HEADER + padded, 4), (0, 8))
        )
        return header.ljust(_HEADER, b"\0") + body.ljust(padded, b"\0")

    def _buffer(self, constant: Constant) -> int:
        self._constants.append({"offset": _NAMED, "size": constant.nbytes, "named_key": constant.key})
        return len(self._constants) - 1

    def _value(
        self, shape: Shape, dtype: str, *, buffer: int = 0, quantization: tuple[str, dict[str, Any]] | None = None
    ) -> int:
        tensor = {
            "datatype": f"xnn_datatype_{dtype}",
            "num_dims": len(shape),
            "dims": [size or self.max_tokens for size in shape],
            "constant_buffer_idx": buffer,
            "external_id": _NONE,
            "flags": 0,
            "id_out": len(self._values),
        }
        if quantization is None:
            self._values.append({"xvalue_union_type": "XNNTensorValue", "xvalue_union": tensor})
        else:
            kind, parameters = quantization
            table = {"tensor_value": tensor, "quant_params_type": kind, "quant_params": parameters}
            self._values.append({"xvalue_union_type": "XNNQuantizedTensorValue", "xvalue_union": table})
        self._shapes.append(shape)
        return len(self._values) - 1

    def _node(self, kind: str, shape: Shape, *, flags: int = 0, **fields: int | Sequence[int]) -> int:
        value = self._value(shape, "fp32")
        self._emit(kind, flags=flags, output_id=value, **fields)
        return value

    def _emit(self, kind: str, *, flags: int = 0, **fields: int | Sequence[int]) -> None:
        union = {**fields, "flags": flags}
        self._nodes.append({"xnode_union_type": kind, "xnode_union": union, "debug_handle": len(self._nodes)})
