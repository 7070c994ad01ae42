"""A graph as text that can be read aloud: one op a line, layers set apart."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

_DTYPES = {"FLOAT": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "INT64": "i64", "INT8": "i8", "INT4": "i4"}


def dtype_text(dtype: ir.DataType | None) -> str:
    """Short name of an element type, e.g. ``bf16``."""
    return "?" if dtype is None else _DTYPES.get(dtype.name, dtype.name.lower())


def type_text(value: ir.Value) -> str:
    """Type and shape of a value, e.g. ``bf16[576, 576]``."""
    shape = ", ".join(str(d) for d in value.shape) if value.shape is not None else "?"
    return f"{dtype_text(value.dtype)}[{shape}]"


def _operand(value: ir.Value | None) -> str:
    if value is None:
        return "none"
    return f"@{value.name}" if value.is_initializer() else f"%{value.name}"


def _attributes(node: ir.Node) -> str:
    items = [
        f"{a.name}={a.value:g}" if isinstance(a.value, float) else f"{a.name}={a.value}"
        for a in node.attributes.values()
    ]
    return f" {{{', '.join(items)}}}" if items else ""


def lines(model: ir.Model) -> Iterator[str]:
    """The graph, op by op; ``@`` marks weights, ``%`` activations."""
    graph = model.graph
    tokens_and_positions = [v for v in graph.inputs if not str(v.name).startswith("past_")]
    caches = len(graph.inputs) - len(tokens_and_positions)
    inputs = ", ".join(f"%{v.name}: {type_text(v)}" for v in tokens_and_positions)
    yield f"graph {graph.name}({inputs}, {caches} cache tensors) {{"
    previous = None
    for node in graph:
        layer = re.match(r"layers\.\d+", node.name or "")
        section = layer.group() if layer else node.name
        if layer and section != previous:
            yield f"  # {section}"
        previous = section
        result = node.outputs[0]
        operands = ", ".join(_operand(v) for v in node.inputs)
        yield f"  %{result.name} = {node.op_type}({operands}){_attributes(node)} : {type_text(result)}"
    yield f"  return %{graph.outputs[0].name}, {len(graph.outputs) - 1} cache tensors"
    yield "}"


def format_graph(model: ir.Model) -> str:
    """:func:`lines` as one string."""
    return "\n".join(lines(model))
