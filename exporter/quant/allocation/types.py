"""Types by name for the matrices of a graph, checked against what a target's row can store."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporter.errors import AllocationError
from exporter.ir.weights import float_rows, quantized_weights
from exporter.quant.apply import roles
from exporter.quant.schemes import MATRICES, WeightType


@dataclass(frozen=True)
class Matrix:
    """A weight that types are for: its shape ``(out, in)`` and what it is used as."""

    shape: tuple[int, int]
    roles: frozenset[str]


def matrices(model: ir.Model) -> dict[str, Matrix]:
    """Name -> matrix of every weight of a graph, quantized or not, that a type can be chosen for, in graph order."""
    found = {}
    for node in model.graph:
        weight = node.inputs[1] if node.op_type in ("Embedding", "Linear") else None
        if weight is not None and (played := roles(weight)) and played <= MATRICES:
            n_rows, n_cols = float_rows(weight).dims
            found[str(weight.name)] = Matrix((n_rows, n_cols), played)
    return found


def require_floats(model: ir.Model) -> None:
    """Refuse a graph whose integers somebody has chosen.

    Raises:
        AllocationError: If there is one.
    """
    if chosen := quantized_weights(model):
        raise AllocationError(
            "the checkpoint has chosen its integers already",
            expected="float weights",
            found=f"{chosen[0].name} and {len(chosen) - 1} more in integers",
            hint="export the bf16 checkpoint that it was made from",
        )


def resolve(
    model: ir.Model, row: str, available: Mapping[str, WeightType], names: Mapping[str, str]
) -> dict[str, WeightType]:
    """Weight -> its type.

    Args:
        model: The graph before a recipe.
        row: Name of the capability row, for messages.
        available: Its types by name.
        names: Weight -> name of a type; not all weights need one.

    Raises:
        AllocationError: If there is no such weight or type, or a weight cannot be stored so.
    """
    known, found = matrices(model), {}
    if names:
        require_floats(model)
    for weight, name in names.items():
        if weight not in known:
            near = difflib.get_close_matches(weight, known, 3)
            raise AllocationError(
                f"the model has no matrix {weight}",
                expected=", ".join(near) or "names as `exporter inspect` lists them",
                found=weight,
            )
        if name not in available:
            raise AllocationError(
                f"{weight}: {row} cannot be stored as {name} here",
                expected=", ".join(available) or "a row that has types to choose from",
                found=name,
            )
        matrix = known[weight]
        if why := available[name].misfit(matrix.shape, matrix.roles):
            fitting = [kind.name for kind in available.values() if not kind.misfit(matrix.shape, matrix.roles)]
            raise AllocationError(
                f"{weight} cannot be stored as {name}: {why}", expected=" or ".join(fitting) or "none fits", found=name
            )
        found[weight] = available[name]
    return found
