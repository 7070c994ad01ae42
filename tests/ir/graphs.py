"""Graphs of tiny Llamas with weights in memory, and the inputs to run them on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import torch

from exporter.ir.build import build, config_of
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import PORTABLE_RECIPES
from exporter.tensors import RowTensor, from_array
from tests.fixtures.models import TinySpec, weights

N_TOKENS = 12


def tensors(spec: TinySpec) -> dict[str, RowTensor]:
    """Canonical name -> weight."""
    return {name: from_array(name, array) for name, array in weights(spec).items()}


def graph(spec: TinySpec | None = None, recipe: str | None = None) -> ir.Model:
    """A fresh graph, rewritten by a portable recipe if one is named."""
    spec = spec or TinySpec()
    model = build(spec.config, tensors(spec), name="tiny")
    return model if recipe is None else apply_recipe(model, PORTABLE_RECIPES[recipe])


def node(model: ir.Model, name: str) -> ir.Node:
    """The node of that name."""
    return next(n for n in model.graph if n.name == name)


def token_ids(vocab_size: int, n_tokens: int = N_TOKENS, seed: int = 0) -> list[int]:
    """Random tokens of which one occurs twice."""
    ids = np.random.default_rng(seed).integers(0, vocab_size, n_tokens)
    ids[-1] = ids[0]
    return [int(i) for i in ids]


def random_inputs(model: ir.Model, *, batch: int, past: int, new: int) -> dict[str, torch.Tensor]:
    """Inputs of one step: ``new`` tokens after ``past`` cached positions whose keys and values are random."""
    config = config_of(model)
    generator = torch.Generator().manual_seed(batch * 100 + past * 10 + new)
    cache = (batch, config.n_kv_heads, past, config.head_dim)
    inputs = {
        "tokens": torch.randint(config.vocab_size, (batch, new), generator=generator),
        "positions": torch.arange(past, past + new).repeat(batch, 1),
    }
    names = [str(v.name) for v in model.graph.inputs]
    return {n: inputs[n] if n in inputs else torch.randn(cache, generator=generator) for n in names}


def weight_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every weight operand once, in graph order; of a quantized weight, the decoded value."""
    seen = set()
    for n in model.graph:
        for value in n.inputs:
            producer = value.producer() if value is not None else None
            quantized = producer is not None and producer.op_type == "DequantizeLinear"
            stored = value is not None and value.is_initializer() and n.op_type != "DequantizeLinear"
            if (quantized or stored) and value not in seen:
                seen.add(value)
                yield value
