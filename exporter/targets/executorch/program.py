"""An ExecuTorch program under construction: values, instructions, and where tensors lie while it runs.

Format: executorch's ``exir/_serialize/program.fbs``; the conventions of its fields are those of ``exir/schema.py`` and
``exir/emit/_emitter.py``. A kernel's arguments are its schema's, and its output once more as its result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx_ir as ir

from exporter.targets.executorch.subgraph import Shape

BFLOAT16, FLOAT, HALF, LONG, CHAR, BYTE = 15, 6, 5, 4, 1, 0
"""``exir/scalar_type.py``."""
SCALAR_TYPES = {BFLOAT16: "BFLOAT16", FLOAT: "FLOAT", HALF: "HALF", LONG: "LONG", CHAR: "CHAR", BYTE: "BYTE"}
"""Their names (``exir/_serialize/scalar_type.fbs``)."""
SCALAR_TYPE = {ir.DataType.FLOAT: FLOAT, ir.DataType.FLOAT16: HALF, ir.DataType.BFLOAT16: BFLOAT16}
"""The types of float weights."""
ITEM_BYTES = {BFLOAT16: 2, FLOAT: 4, HALF: 2, LONG: 8, CHAR: 1, BYTE: 1}
_ALIGNMENT = 64
"""Of tensors in the planned memory; a cache line, and more than any kernel asks for."""
_OVERREAD = 64
"""XNNPACK may read some bytes beyond the end of an input (``XNN_EXTRA_BYTES``)."""
_STATIC, _BOUNDED = 0, 1

Constants = Mapping[str, int | bool | Sequence[int]]
"""Name of a constant method -> what it returns."""


@dataclass
class Tensor:
    """A tensor of the program.

    Attributes:
        shape: ``0`` stands for the number of tokens.
        dtype: ``FLOAT``, ``LONG`` and so on.
        value: Its index in the program's values.
        first: Index of the instruction that writes it; ``None`` for inputs and constants.
        last: Index of the last instruction that reads it.
        persistent: Whether it keeps its memory between calls.
        name: Of a constant; empty if it is none.
    """

    shape: Shape
    dtype: int
    value: int
    first: int | None = None
    last: int = -1
    persistent: bool = False
    name: str = ""


class Delegate(Protocol):
    """What a backend executes in one piece.

    Attributes:
        backend: The id that the backend registers under.
        compile_specs: What it is told when it loads its piece.
    """

    @property
    def backend(self) -> str: ...

    @property
    def compile_specs(self) -> Mapping[str, bytes]: ...

    @property
    def inputs(self) -> Sequence[int]:
        """Numbers of what it reads, in the order of the call's arguments."""

    @property
    def outputs(self) -> Sequence[int]:
        """Numbers of what it writes; they follow the inputs."""

    @property
    def constant_keys(self) -> Sequence[str]:
        """Names of the blobs that it asks the program for."""

    def serialized(self) -> bytes:
        """The piece, as the backend reads it."""


@dataclass(frozen=True)
class Payload:
    """A delegate that its backend's own compiler has made. See :class:`Delegate`."""

    backend: str
    compile_specs: Mapping[str, bytes]
    data: bytes
    inputs: Sequence[int]
    outputs: Sequence[int]
    constant_keys: Sequence[str] = ()

    def serialized(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class Call:
    """An instruction that hands tensors to a delegate; its arguments are known when the delegate is complete."""

    delegate: Delegate
    arguments: dict[int, Tensor] = field(default_factory=dict)
    """Number in the delegate -> tensor."""


@dataclass
class Program:
    """The method ``forward``.

    Attributes:
        max_tokens: Upper bound of the number of tokens in one call.
        calls: The delegates, in order.
    """

    max_tokens: int
    calls: list[Call] = field(default_factory=list)
    _values: list[dict[str, Any] | Tensor] = field(default_factory=list)
    _instructions: list[tuple[int, list[int]] | Call] = field(default_factory=list)
    _operators: dict[tuple[str, str], int] = field(default_factory=dict)
    _inputs: list[int] = field(default_factory=list)
    _outputs: list[int] = field(default_factory=list)

    def integer(self, value: int) -> int:
        return self._value("Int", {"int_val": value})

    def boolean(self, value: bool) -> int:
        return self._value("Bool", {"bool_val": value})

    def number(self, value: float) -> int:
        return self._value("Double", {"double_val": value})

    def integers(self, values: Sequence[int]) -> int:
        return self._value("IntList", {"items": [self.integer(value) for value in values]})

    def null(self) -> int:
        return self._value("Null", {})

    def _value(self, kind: str, fields: dict[str, Any]) -> int:
        self._values.append({"val_type": kind, "val": fields})
        return len(self._values) - 1

    def tensor(self, shape: Shape, dtype: int = FLOAT, *, name: str = "", persistent: bool = False) -> Tensor:
        made = Tensor(shape, dtype, len(self._values), name=name, persistent=persistent)
        self._values.append(made)
        return made

    def input(self, shape: Shape, dtype: int) -> Tensor:
        made = self.tensor(shape, dtype)
        self._inputs.append(made.value)
        return made

    def output(self, tensor: Tensor) -> None:
        tensor.last = len(self._instructions)
        self._outputs.append(tensor.value)

    def cast(self, tensor: Tensor, dtype: int) -> Tensor:
        """The same numbers in another float type; the tensor itself if it is of that type."""
        if tensor.dtype == dtype:
            return tensor
        result = self.tensor(tensor.shape, dtype)
        self.kernel("aten::_to_copy", "out", [tensor, self.boolean(False), self.null()], result)
        return result

    def kernel(
        self, name: str, overload: str, arguments: Sequence[int | Tensor | Sequence[Tensor]], result: int | Tensor
    ) -> None:
        """Call an operator; ``result`` is an integer's value index or the ``out`` tensor."""
        at = len(self._instructions)

        def place(argument: int | Tensor | Sequence[Tensor]) -> int:
            if isinstance(argument, Tensor):
                self._used(argument, at, writes=argument is result)
                return argument.value
            if isinstance(argument, Sequence):
                return self._value("TensorList", {"items": [place(tensor) for tensor in argument]})
            return argument

        places = [place(argument) for argument in (*arguments, result)]
        if isinstance(result, Tensor):
            places.append(result.value)
        operator = self._operators.setdefault((name, overload), len(self._operators))
        self._instructions.append((operator, places))

    def delegate(self, delegate: Delegate) -> Call:
        """Call a delegate; what it takes and gives may follow."""
        call = Call(delegate)
        self.calls.append(call)
        self._instructions.append(call)
        return call

    def _used(self, tensor: Tensor, at: int, *, writes: bool) -> None:
        if writes and tensor.first is None:
            tensor.first = at
        tensor.last = max(tensor.last, at)

    @property
    def constants(self) -> list[Tensor]:
        """The tensors whose content is stored, in the order in which they were made."""
        return [value for value in self._values if isinstance(value, Tensor) and value.name]

    @property
    def read_by_name(self) -> set[str]:
        """Keys of the blobs that delegates ask for."""
        return {key for call in self.calls for key in call.delegate.constant_keys}

    def to_document(self, delegate_segments: Sequence[int], stored: Sequence[str]) -> dict[str, Any]:
        """The ``ExecutionPlan`` table.

        Args:
            delegate_segments: Index of the segment of each delegate.
            stored: Names of the constants in the program's own file, in order; the others lie in another.
        """
        buffers = {name: number for number, name in enumerate(stored, 1)}
        instructions = []
        for at, instruction in enumerate(self._instructions):
            if isinstance(instruction, Call):
                delegate = instruction.delegate
                for value in delegate.inputs:
                    self._used(instruction.arguments[value], at, writes=False)
                for value in delegate.outputs:
                    self._used(instruction.arguments[value], at, writes=True)
                places = [instruction.arguments[v].value for v in (*delegate.inputs, *delegate.outputs)]
                call = {"delegate_index": self.calls.index(instruction), "args": places}
                instructions.append({"instr_args_type": "DelegateCall", "instr_args": call})
            else:
                operator, places = instruction
                call = {"op_index": operator, "args": places}
                instructions.append({"instr_args_type": "KernelCall", "instr_args": call})
        tensors = [value for value in self._values if isinstance(value, Tensor)]
        offsets, size = self._memory([t for t in tensors if t.persistent or t.first is not None])
        return {
            "name": "forward",
            "container_meta_type": {"encoded_inp_str": "", "encoded_out_str": ""},
            "values": [self._described(v, offsets, buffers) if isinstance(v, Tensor) else v for v in self._values],
            "inputs": self._inputs,
            "outputs": self._outputs,
            "chains": [{"inputs": [], "outputs": [], "instructions": instructions}],
            "operators": [{"name": name, "overload": overload} for name, overload in self._operators],
            "delegates": [
                {
                    "id": call.delegate.backend,
                    "processed": {"location": "SEGMENT", "index": segment},
                    "compile_specs": [{"key": k, "value": list(v)} for k, v in call.delegate.compile_specs.items()],
                }
                for call, segment in zip(self.calls, delegate_segments, strict=True)
            ],
            # The first is the constants', whose size the runtime takes from elsewhere.
            "non_const_buffer_sizes": [0, size],
        }

    def nbytes(self, tensor: Tensor) -> int:
        """Bytes of a tensor at its largest."""
        return math.prod(size or self.max_tokens for size in tensor.shape) * ITEM_BYTES[tensor.dtype]

    def _memory(self, tensors: Sequence[Tensor]) -> tuple[dict[int, int], int]:
        """Value -> offset, and the total: largest first, each at the lowest place that is free while it lives."""
        placed: list[tuple[int, int, Tensor]] = []
        for tensor in sorted(tensors, key=lambda t: (not t.persistent, -self.nbytes(t), t.value)):
            size = -(-(self.nbytes(tensor) + _OVERREAD) // _ALIGNMENT) * _ALIGNMENT
            start = 0
            for begin, end, other in sorted(placed, key=lambda p: p[0]):
                if not _together(tensor, other):
                    continue
                if start + size <= begin:
                    break
                start = max(start, end)
            placed.append((start, start + size, tensor))
        return {t.value: begin for begin, _, t in placed}, max((end for _, end, _ in placed), default=0)

    def _described(self, tensor: Tensor, offsets: Mapping[int, int], buffers: Mapping[str, int]) -> dict[str, Any]:
        described: dict[str, Any] = {
            "scalar_type": tensor.dtype,
            "storage_offset": 0,
            "sizes": [size or self.max_tokens for size in tensor.shape],
            "dim_order": list(range(len(tensor.shape))),
            "requires_grad": False,
            "data_buffer_idx": buffers.get(tensor.name, 0),
            "layout": 0,
            "shape_dynamism": _BOUNDED if 0 in tensor.shape else _STATIC,
        }
        if tensor.name:
            location = "SEGMENT" if tensor.name in buffers else "EXTERNAL"
            described["extra_tensor_info"] = {"fully_qualified_name": tensor.name, "location": location}
        if tensor.value in offsets:
            offset = offsets[tensor.value]
            described["allocation_info"] = {
                "memory_id": 1, "memory_offset_low": offset & 0xFFFFFFFF, "memory_offset_high": offset >> 32,
            }  # fmt: skip
        return {"val_type": "Tensor", "val": described}


def _together(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are alive at the same time."""
    if a.persistent or b.persistent:
        return True
    return (a.first or 0) <= b.last and (b.first or 0) <= a.last


def constant_methods(methods: Constants) -> list[dict[str, Any]]:
    """``ExecutionPlan`` tables of methods that take nothing and return numbers known now."""

    def value(number: int | bool) -> dict[str, Any]:
        if isinstance(number, bool):
            return {"val_type": "Bool", "val": {"bool_val": number}}
        return {"val_type": "Int", "val": {"int_val": number}}

    plans = []
    for name, result in methods.items():
        numbers = list(result) if isinstance(result, Sequence) else [result]
        plans.append(
            {
                "name": name,
                "container_meta_type": {"encoded_inp_str": "", "encoded_out_str": ""},
                "values": [value(number) for number in numbers],
                "inputs": [],
                "outputs": list(range(len(numbers))),
                "chains": [{"inputs": [], "outputs": [], "instructions": []}],
                "operators": [],
                "delegates": [],
                "non_const_buffer_sizes": [0],
            }
        )
    return plans
