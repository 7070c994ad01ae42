"""What is quantized how: schemes (one tensor) and recipes (a whole model), as data.

How the integers are chosen is ``exporter/quant/rounding``; where their bits go is each target's packing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


@dataclass(frozen=True)
class Scheme:
    """Symmetric block quantization of a matrix ``[out, in]`` along ``in``.

    A weight is ``integer * scale``, no zero point. Scales are positive and exact in float16, bfloat16 and
    float32 alike (``rounding/portable.py``), so that every runtime decodes the same weights bit for bit.

    Attributes:
        name: The scheme's name in recipes and manifests.
        bits: Width of one integer.
        group_size: Consecutive columns that share one scale; ``None`` for all of a row.
        qmin: Smallest integer.
        qmax: Largest integer.
    """

    name: str
    bits: int
    group_size: int | None
    qmin: int
    qmax: int

    def block_size(self, n_cols: int) -> int:
        """Columns that share one scale in a matrix of that width."""
        return self.group_size or n_cols

    @property
    def dtype(self) -> ir.DataType:
        return ir.DataType.INT4 if self.bits == 4 else ir.DataType.INT8

    def in_groups(self, size: int) -> Scheme:
        """The same integers with another number of columns to a scale."""
        return replace(self, group_size=size)


INT4 = Scheme("int4", bits=4, group_size=32, qmin=-8, qmax=7)
INT8 = Scheme("int8", bits=8, group_size=32, qmin=-127, qmax=127)
INT8_ROWS = Scheme("int8_rows", bits=8, group_size=None, qmin=-127, qmax=127)

EMBEDDING, HEAD, LINEAR, NORM = "embedding", "head", "linear", "norm"
"""The roles a weight can play; a tied embedding plays two."""

Encoding = Scheme | ir.DataType
"""A weight is either quantized by a scheme or stored in a float type."""

MATRICES = frozenset({EMBEDDING, HEAD, LINEAR})
"""The roles of what is quantized."""

RoundRows = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Rows float32 ``[n, k]`` and the importance of their columns ``[k]`` -> what is left of them, float32 ``[n, k]``."""


@dataclass(frozen=True)
class WeightType:
    """One way in which a target can store a matrix; under a budget each matrix gets the one that it is worth.

    Attributes:
        name: What allocations call it.
        bits: Stored bits a weight, group scales included.
        multiple: The columns must be a multiple of it.
        scheme: The portable integers that it holds; ``None`` where the target's own encoder chooses what is stored.
        rounded: What that encoder leaves of rows; only without a scheme.
        roles: What a weight may be used as to be stored so.
        row_bytes: Bytes a row has besides.
        tied_bits: ``bits`` of an embedding that is the head too, if two kernels want scales of their own.
    """

    name: str
    bits: float
    multiple: int = 1
    scheme: Scheme | None = None
    rounded: RoundRows | None = None
    roles: frozenset[str] = MATRICES
    row_bytes: int = 0
    tied_bits: float | None = None

    def nbytes(self, shape: tuple[int, ...], roles: frozenset[str]) -> int:
        """Bytes of a matrix, without padding."""
        n_rows, n_cols = shape
        tied = self.tied_bits if roles == {EMBEDDING, HEAD} else None
        return int(n_rows * (n_cols * (tied or self.bits) / 8 + self.row_bytes))

    def misfit(self, shape: tuple[int, ...], roles: frozenset[str]) -> str:
        """Why a matrix cannot be stored so; empty if it can."""
        if not roles <= self.roles:
            return f"no kernel reads {self.name} as {' and '.join(sorted(roles - self.roles))}"
        if shape[1] % self.multiple:
            return f"{shape[1]} columns are no multiple of {self.multiple}"
        return ""


def by_name(*types: WeightType) -> Mapping[str, WeightType]:
    """A table of types."""
    return MappingProxyType({one.name: one for one in types})


@dataclass(frozen=True)
class Rule:
    """Weights that play one of ``roles`` get ``encoding``."""

    roles: frozenset[str]
    encoding: Encoding


@dataclass(frozen=True)
class Recipe:
    """Ordered rules; the first that names one of a weight's roles decides.

    Attributes:
        name: Of the recipe.
        rules: By role.
        exceptions: Name of a weight -> its own encoding, whatever the rules say; ``None`` leaves it as it is stored.
    """

    name: str
    rules: tuple[Rule, ...]
    exceptions: Mapping[str, Encoding | None] = field(default_factory=dict, hash=False)

    def encoding_for(self, weight: str, roles: frozenset[str]) -> Encoding | None:
        """The encoding of a weight, or ``None`` to leave it as it is stored."""
        if weight in self.exceptions:
            return self.exceptions[weight]
        return next((rule.encoding for rule in self.rules if rule.roles & roles), None)

    def with_types(self, types: Mapping[str, WeightType]) -> Recipe:
        """The recipe for which some weights, by name, have a type of their own."""
        return replace(self, exceptions={name: chosen.scheme for name, chosen in types.items()})


def _recipe(name: str, *rules: tuple[Collection[str], Encoding]) -> Recipe:
    return Recipe(name, tuple(Rule(frozenset(roles), encoding) for roles, encoding in rules))


_F32 = ir.DataType.FLOAT

PORTABLE_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe("f32", ((*MATRICES, NORM), _F32)),
        _recipe("f16", ((NORM,), _F32), (MATRICES, ir.DataType.FLOAT16)),
        _recipe("bf16", ((NORM,), _F32), (MATRICES, ir.DataType.BFLOAT16)),
        _recipe("int8", ((NORM,), _F32), (MATRICES, INT8)),
        # Meta's own mobile layout (SpinQuant / QLoRA checkpoints): the embedding and the head keep 8 bits.
        _recipe("int4", ((NORM,), _F32), ((EMBEDDING, HEAD), INT8), ((LINEAR,), INT4)),
    )
}
"""Names that mean the same on every target."""

INT8_ROWS_RECIPE = _recipe("int8_rows", ((NORM,), _F32), (MATRICES, INT8_ROWS))
"""One scale for each output channel: what integer matrix products take."""
