"""Graph -> the tensors of a GGUF of architecture ``llama``.

llama.cpp hard-codes the network; a GGUF only names it. So a graph can be lowered exactly when it *is* that
network: node for node what ``ir.build`` makes of its configuration, quantized weights aside.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from exporter.config import ModelConfig
from exporter.errors import ExporterError, TargetError
from exporter.ir.build import ROPE_INV_FREQ, build, config_of
from exporter.ir.verify import verify
from exporter.ir.weights import float_rows, is_quantized
from exporter.names import name_map
from exporter.rope import freq_factors
from exporter.targets.base import EXPORT_THE_ORIGINAL
from exporter.tensors import RowTensor, from_array

ROPE_FREQS = "rope_freqs.weight"
"""llama.cpp's tensor of per-frequency divisors: the only place where Llama 3's RoPE scaling lives in a GGUF."""


_HINT = "llama.cpp computes one network, the same in every layer: rewrite the graph into it"


_ADDED = {
    "Hadamard": "architecture llama has no Hadamard transform",
    "LoRA": "an adaptor would have to be a file of its own",
}
"""Ops of models that Meta quantized -> why a GGUF cannot hold them."""


@dataclass(frozen=True)
class LoweredTensor:
    """One tensor of the file.

    Attributes:
        name: GGUF name.
        canonical: Name in the graph; empty for ``rope_freqs.weight``, which the graph expresses as frequencies.
        weight: The graph's weight operand: an initializer, or the output of a ``DequantizeLinear``.
        shape: ``(out, in)`` or ``(n,)``; the file stores it reversed.
    """

    name: str
    canonical: str
    weight: ir.Value
    shape: tuple[int, ...]


def float_weights(model: ir.Model) -> dict[str, RowTensor]:
    """Canonical name -> decoded weight of every parameter of a graph."""
    return {name: float_rows(value) for name, value in _parameters(model).items()}


def _signature(model: ir.Model) -> Iterator[tuple[str, tuple[str | None, ...], tuple[tuple[str, object], ...]]]:
    for node in model.graph:
        if node.op_type != "DequantizeLinear":
            attributes = tuple(sorted((a.name, a.value) for a in node.attributes.values()))
            yield node.op_type, tuple(v.name if v is not None else None for v in node.inputs), attributes


def _parameters(model: ir.Model) -> dict[str, ir.Value]:
    """Canonical name -> weight operand, in the order of first use; frequencies and lists of tokens are none."""
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        if node.op_type in ("DequantizeLinear", "ScatterLogits"):
            continue
        for value in node.inputs:
            if value is not None and (value.is_initializer() or is_quantized(value)):
                found.setdefault(str(value.name), value)
    found.pop(ROPE_INV_FREQ, None)
    return found


def lower(model: ir.Model) -> list[LoweredTensor]:
    """The file's tensors in order: embedding, layers, output norm, head, RoPE factors.

    Raises:
        GraphError: If the graph is invalid.
        TargetError: If it is not the network that llama.cpp computes for architecture ``llama``.
    """
    verify(model)
    config = config_of(model)
    for node in model.graph:
        if node.op_type in _ADDED:
            raise TargetError(
                f"llama.cpp cannot compute this graph: {_ADDED[node.op_type]}",
                expected="a Llama without it",
                found=f"{node.op_type} ({node.name})",
                hint=EXPORT_THE_ORIGINAL,
            )
    parameters = _parameters(model)
    try:
        canonical = build(config, float_weights(model))
    except ExporterError as error:
        raise TargetError(
            "llama.cpp has no place for the weights of this graph", found=error.message, hint=_HINT
        ) from error
    for found, expected in itertools.zip_longest(_signature(model), _signature(canonical)):
        if found != expected:
            raise TargetError("llama.cpp cannot compute this graph", expected=expected, found=found, hint=_HINT)
    gguf_names = name_map("canonical", "gguf", config.n_layers)
    tensors = [
        LoweredTensor(gguf, name, parameters[name], float_rows(parameters[name]).dims)
        for name, gguf in gguf_names.items()
        if name in parameters
    ]
    return [*tensors, *_rope_tensor(config)]


def _rope_tensor(config: ModelConfig) -> list[LoweredTensor]:
    factors = freq_factors(config)
    if factors is None:
        return []
    tensor = from_array(ROPE_FREQS, factors)
    value = ir.Value(name=ROPE_FREQS, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
    return [LoweredTensor(ROPE_FREQS, "", value, tensor.dims)]
