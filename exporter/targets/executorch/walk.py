"""The state of one walk over a graph that is being lowered, and its result.

The rules that walk are in ``lower.py``; what they compute with is an engine's (``engine.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from exporter.errors import TargetError
from exporter.ir.build import KEPT_TOKENS
from exporter.targets.executorch.engine import Arithmetic, Engine, Section
from exporter.targets.executorch.program import Program, Tensor
from exporter.targets.executorch.rotary import COS, SIN
from exporter.targets.executorch.subgraph import Constant, Shape
from exporter.targets.executorch.weights import Weight
from exporter.tensors import RowTensor

EPSILON = "norm_eps"
"""Name of the constant that the norms add."""
LORA_SCALE = "lora_scale"
"""Name of the constant that the adaptors are multiplied by."""
NO_LOGITS = "no_logits"
"""Name of the row that a head with some tokens fills in."""
_OWN = (EPSILON, LORA_SCALE, COS, SIN, KEPT_TOKENS, NO_LOGITS)
GROUP_MULTIPLE = 32
"""XNNPACK's blockwise kernels take groups of a multiple of it (``xnn_define_blockwise_quantized_tensor_value``)."""
HINT = "the ExecuTorch target lowers decoders as exporter.ir.build makes them"


@dataclass(frozen=True)
class Lowered:
    """The result.

    Attributes:
        program: The method ``forward``, its subgraphs complete.
        constants: Names of the blobs that are constants of the program, from number 1 on.
        weights: Every weight, those first.
        parameters: Canonical name -> decoded weight of every parameter that was lowered.
    """

    program: Program
    constants: list[str]
    weights: list[Weight]
    parameters: dict[str, RowTensor]

    @property
    def own_constants(self) -> list[str]:
        """The constants that are this program's: they depend on its context, or are numbers and no weights."""
        return [key for key in self.constants if key in _OWN]

    @property
    def own_weights(self) -> list[Weight]:
        """Their blobs."""
        return [weight for weight in self.weights if weight.blobs[0].key in _OWN]


@dataclass(frozen=True)
class _Made:
    """Where a value of the graph is."""

    section: Section
    id: int


@dataclass
class Lowering:
    """State of one walk.

    Attributes:
        model: The graph being lowered.
        program: The program under construction.
        context: Positions of the cache.
        position: Value of the first token's position.
        tokens: The input, int64 ``[1, tokens]``.
        frequencies: What every ``Rope`` rotates by.
        engine: What computes.
        rotations: Cosines and sines of this call's positions, float32 ``[tokens, head_dim / 2]``.
        values: Graph value -> where it is.
    """

    model: ir.Model
    program: Program
    context: int
    position: int
    tokens: Tensor
    frequencies: ir.Value
    engine: Engine
    rotations: tuple[Tensor, ...] = ()
    _section: Section | None = None
    values: dict[ir.Value, _Made | Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    parameters: dict[str, RowTensor] = field(default_factory=dict)

    @property
    def section(self) -> Section:
        """Where ops go."""
        if self._section is None:
            raise TargetError(
                "the graph does not begin with an embedding", expected="Embedding", found="another op", hint=HINT
            )
        return self._section

    def begin(self) -> None:
        """Ops go into a new section from here on."""
        self._section = self.engine.begin(self.program)

    @property
    def graph(self) -> Arithmetic:
        return self.section.graph

    def operand(self, value: ir.Value) -> int:
        """The value in the current section, brought in from outside if it is not there."""
        made = self.values[value]
        if isinstance(made, _Made) and made.section is self.section:
            return made.id
        return self.brought(self.exported(value))

    def brought(self, tensor: Tensor) -> int:
        return self.section.brought(tensor)

    def exported(self, value: ir.Value) -> Tensor:
        """The value as a tensor of the program."""
        made = self.values[value]
        return made if isinstance(made, Tensor) else made.section.exported(made.id)

    def define(self, value: ir.Value, id: int) -> None:
        self.values[value] = _Made(self.section, id)

    def weight(self, weight: Weight) -> tuple[Constant, ...]:
        """The blobs of a weight; one that is there already, by its name, is shared."""
        return self.weights.setdefault(weight.blobs[0].key, weight).blobs

    def stored(self, weight: Weight, shapes: Sequence[Shape], dtypes: Sequence[int]) -> list[Tensor]:
        """A weight as constants of the program: what its own kernels read, and what delegates do not pack.

        XNNPACK's backend frees what it read under a name as soon as it has packed it; an addend or a factor is never
        packed, so that its memory would be gone (measured with ExecuTorch 1.4.0: a crash).
        """
        found = []
        # What follows the program's own blobs is for delegates.
        for blob, shape, dtype in zip(self.weight(weight), shapes, dtypes, strict=False):
            if blob.key not in self.constants:
                self.constants[blob.key] = self.program.tensor(shape, dtype, name=blob.key)
            found.append(self.constants[blob.key])
        return found


def operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise TargetError(
            f"node {node.name} ({node.op_type}) lacks operand {index}", expected="a value", found="none", hint=HINT
        )
    return value


def scales_shape(scales: RowTensor) -> Shape:
    """Of the scales of 8-bit integers, as kernels want them: one axis if there is one scale a row."""
    return scales.dims if scales.dims[1] > 1 else scales.dims[:1]


def is_table(weight: ir.Value) -> bool:
    """Whether a matrix is tied to the embedding."""
    return any(user.op_type == "Embedding" for user, _ in weight.uses())
