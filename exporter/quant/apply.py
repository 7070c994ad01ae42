"""The pass that carries a recipe out: weights become blocked ``DequantizeLinear`` or another float type.

Weights that are quantized when it begins keep their integers, or are decoded: they are never quantized again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.passes import VerifiedPass, run
from exporter.ir.weights import float_rows, is_quantized, quantized_parts, quantized_weights, row_tensor
from exporter.quant import rounding
from exporter.quant.blocks import Importance, quantize_tensor
from exporter.quant.energy import LazyImportance
from exporter.quant.schemes import EMBEDDING, HEAD, INT4, LINEAR, NORM, Recipe, Scheme
from exporter.tensors import Array, RowTensor

if TYPE_CHECKING:
    from exporter.quant.calibration.use import Calibrated

_WEIGHT_OPERAND = {"Embedding": EMBEDDING, "Linear": LINEAR, "RMSNorm": NORM}
"""Op -> role of its operand 1."""

DEFAULT_ROUNDING = {"int4": "least-squares", "int8": "nearest", "int8_rows": "nearest"}
"""Scheme -> rounding method without calibration data; measured in ``docs/quantization.md``."""


def roles(weight: ir.Value) -> frozenset[str]:
    """The roles a weight plays, by the nodes that use it."""
    found = set()
    for node, index in weight.uses():
        role = _WEIGHT_OPERAND.get(node.op_type)
        if role is not None and index == 1:
            found.add(HEAD if ops.is_head(node) else role)
    return frozenset(found)


def linear_schemes(model: ir.Model) -> dict[str, Scheme]:
    """Weight -> scheme of the linears to which a recipe has given 4-bit integers: a calibration can choose these."""
    found = {}
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "Linear" else None
        if weight is not None and is_quantized(weight) and roles(weight) == {LINEAR}:
            ints, _, group = quantized_parts(weight)
            if ints.dtype == ir.DataType.INT4:
                found[str(weight.name)] = INT4.in_groups(group)
    return found


def cast_tensor(source: RowTensor, dtype: ir.DataType) -> RowTensor:
    """The same weight in another float type, rounded to nearest even.

    Raises:
        GraphError: On reading rows whose values exceed the type's range.
    """
    if source.dtype == dtype:
        return source
    target = dtype.numpy()

    def read(start: int, stop: int) -> Array:
        rows = source.rows_f32(start, stop)
        if dtype == ir.DataType.FLOAT:
            return rows
        with np.errstate(over="ignore"):
            cast = rows.astype(target)
        if not np.isfinite(cast.astype(np.float32)).all() and np.isfinite(rows).all():
            raise GraphError(
                f"{source.name} does not fit into {dtype.name.lower()}",
                expected="absolute values up to 65504",
                found=float(np.abs(rows).max()),
                hint="use bf16, which has float32's range",
            )
        return cast

    # Values that were blocks before are blocks no more, but a float type keeps no such bytes anyway.
    return RowTensor(str(source.name), dtype, source.dims, read)


class ApplyRecipe(VerifiedPass):
    """Quantize or cast every weight of a graph as a recipe says.

    Args:
        recipe: What becomes of each role.
        methods: Scheme name -> rounding method; missing ones come from ``DEFAULT_ROUNDING``.
        calibrated: What a calibration knows of this graph; integers that it has chosen are taken as they are.
    """

    def __init__(
        self, recipe: Recipe, methods: dict[str, str] | None = None, calibrated: Calibrated | None = None
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.methods = {**DEFAULT_ROUNDING, **(methods or {})}
        self.calibrated = calibrated

    def call(self, model: ir.Model) -> passes.PassResult:
        modified = False
        importance: Importance = LazyImportance(model) if self.calibrated is None else self.calibrated.importance
        for weight in quantized_weights(model):
            encoding = self.recipe.encoding_for(str(weight.name), roles(weight))
            if isinstance(encoding, Scheme):
                _require_encoded(weight, encoding, self.recipe)
            elif encoding is not None:
                _decode(model.graph, weight, encoding)
                modified = True
        for weight in list(model.graph.initializers.values()):
            encoding = self.recipe.encoding_for(str(weight.name), roles(weight))
            if encoding is None:
                continue
            if isinstance(encoding, Scheme):
                self._quantize(model.graph, weight, encoding, importance)
            else:
                tensor = cast_tensor(row_tensor(weight), encoding)
                weight.const_value = tensor
                weight.type = ir.TensorType(encoding)
            modified = True
        return passes.PassResult(model, modified=modified)

    def _quantize(self, graph: ir.Graph, weight: ir.Value, scheme: Scheme, importance: Importance) -> None:
        source = row_tensor(weight)
        chosen = None if self.calibrated is None else self.calibrated.integers(source, scheme)
        method = rounding.get(self.methods[scheme.name])
        ints, scales = chosen or quantize_tensor(source, scheme, method, importance)
        name = str(weight.name)
        first_user = next(node for node in graph if weight in node.inputs)
        del graph.initializers[name]
        decoded = ops.dequantize(
            graph,
            ops.initializer(graph, ints),
            ops.initializer(graph, scales),
            block_size=scheme.block_size(ints.dims[1]),
            name=name,
            before=first_user,
        )
        for node, index in list(weight.uses()):
            node.replace_input_with(index, decoded)


def _require_encoded(weight: ir.Value, scheme: Scheme, recipe: Recipe) -> None:
    """Integers that somebody has chosen stay: choosing others of them would lose what they were chosen for."""
    ints, _, block = quantized_parts(weight)
    n_cols = ints.dims[1]
    if (ints.dtype, block) != (scheme.dtype, scheme.block_size(n_cols)):
        raise GraphError(
            f"{weight.name} is quantized already, and not as {recipe.name} has it",
            expected=_described(scheme.dtype, scheme.block_size(n_cols), n_cols),
            found=_described(ints.dtype, block, n_cols),
            hint="take a row that keeps it, or f32, which decodes it; or export the bf16 checkpoint it was made from",
        )


def _described(dtype: ir.DataType, block: int, n_cols: int) -> str:
    bits = 4 if dtype == ir.DataType.INT4 else 8
    return f"{bits} bits, " + ("one scale a row" if block == n_cols else f"a scale for {block} columns")


def _decode(graph: ir.Graph, weight: ir.Value, dtype: ir.DataType) -> None:
    """Put floats in the place of integers and scales."""
    node = weight.producer()
    name, floats = str(weight.name), cast_tensor(float_rows(weight), dtype)
    uses = list(weight.uses())
    weight.name = None  # the floats take it
    decoded = ops.initializer(graph, RowTensor(name, dtype, floats.dims, floats.read))
    for reader, index in uses:
        reader.replace_input_with(index, decoded)
    if node is not None:
        stored = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        for value in stored:
            del graph.initializers[str(value.name)]


def apply_recipe(
    model: ir.Model,
    recipe: Recipe,
    methods: dict[str, str] | None = None,
    calibrated: Calibrated | None = None,
) -> ir.Model:
    """Run :class:`ApplyRecipe` and return the model, which it rewrites in place.

    Raises:
        GraphError: If the graph is invalid or the recipe does not fit it.
    """
    return run(ApplyRecipe(recipe, methods, calibrated), model)
