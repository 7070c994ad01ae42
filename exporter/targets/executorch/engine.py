"""What the rules of ``lower.py`` are written in: arithmetic on values, and where these values are.

An engine is what executes everything but the embedding, the cache and the attention. Its values are numbered within a
section, a part of the program that nothing of the program's own interrupts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import onnx_ir as ir

from exporter.targets.executorch.program import Program, Tensor
from exporter.targets.executorch.subgraph import Shape
from exporter.tensors import RowTensor

if TYPE_CHECKING:
    from exporter.targets.executorch.walk import Lowering

Ordered = Callable[[RowTensor], RowTensor]
"""Puts the rows of a matrix, or of its scales, into the order in which the program wants them."""


class Arithmetic(Protocol):
    """Ops on the float32 values of a section; each returns the number of its result."""

    def shape(self, value: int) -> Shape: ...

    def add(self, x: int, y: int) -> int:
        """``y`` may have dimensions of 1 where ``x`` is wider, here and in the other two."""

    def subtract(self, x: int, y: int) -> int: ...

    def multiply(self, x: int, y: int) -> int: ...

    def sigmoid(self, x: int) -> int: ...

    def rsqrt(self, x: int) -> int: ...

    def mean(self, x: int) -> int:
        """Mean of each row of ``x [n, width]``, ``[n, 1]``."""

    def reshape(self, x: int, shape: Shape) -> int: ...

    def columns(self, x: int, start: int, stop: int) -> int:
        """Part of the last axis."""

    def joined(self, x: int, y: int) -> int:
        """Two values side by side along the last axis."""


class Section(Protocol):
    """A part of the program under construction."""

    @property
    def graph(self) -> Arithmetic: ...

    def brought(self, tensor: Tensor) -> int:
        """A tensor of the program as a value in here."""

    def exported(self, value: int) -> Tensor:
        """A value in here as a tensor of the program."""


class Engine(Protocol):
    """See the module."""

    def begin(self, program: Program) -> Section:
        """A new section."""

    def product(self, low: Lowering, weight: ir.Value, x: int, ordered: Ordered, *, head: bool) -> int:
        """``x`` times a transposed weight, in the current section; ``head``: ``x`` is one token.

        Raises:
            TargetError: If the engine has no kernel for the weight's encoding.
        """
