"""Checkpoint in, graph out: the one description of a Llama that every pass and every target reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from exporter.config import ModelConfig
from exporter.errors import CheckpointError, GraphError
from exporter.ir import ops
from exporter.ir.spec import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET, vocabulary
from exporter.names import adaptor_names, expected_shapes
from exporter.rope import inv_freq
from exporter.tensors import RowTensor, from_array, renamed

KEPT_TOKENS = "output.tokens"
"""Initializer that lists the tokens of a head with some rows, int64."""

KEPT_LOGITS = "kept_logits"
"""Node that makes the logits of those tokens."""

CONFIG_KEY = "exporter.config"
"""Model metadata entry that holds the configuration as JSON."""


ROPE_INV_FREQ = "rope.inv_freq"
"""The graph's initializer of rotary frequencies, which follow from the configuration: no weight of a checkpoint."""


def config_of(model: ir.Model) -> ModelConfig:
    """The configuration a graph was built from, as passes have left it.

    Raises:
        GraphError: If the graph carries none, or one that is not this exporter's.
    """
    text = model.metadata_props.get(CONFIG_KEY)
    try:
        return ModelConfig.from_dict(json.loads(text or ""))
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphError(
            f"graph {model.graph.name} carries no valid configuration",
            expected=f"metadata {CONFIG_KEY}, a ModelConfig as JSON",
            found=text,
        ) from error


def set_config(model: ir.Model, config: ModelConfig) -> None:
    model.metadata_props[CONFIG_KEY] = json.dumps(config.to_dict(), sort_keys=True)


class _Weights:
    """The weights of a graph under construction, each registered when it is first asked for."""

    def __init__(self, graph: ir.Graph, config: ModelConfig, tensors: Mapping[str, RowTensor]) -> None:
        self._graph = graph
        self._tensors = tensors
        self._shapes = expected_shapes(config)
        self._entered: dict[str, ir.Value] = {}

    def __call__(self, name: str) -> ir.Value:
        """The operand of that name: an initializer, or integers and scales behind a ``DequantizeLinear``."""
        if name not in self._entered:
            self._entered[name] = self._enter(name)
        return self._entered[name]

    def _enter(self, name: str) -> ir.Value:
        if name not in self._tensors:
            raise CheckpointError(f"the checkpoint has no tensor {name}")
        tensor, graph = self._tensors[name], self._graph
        if tensor.dims != self._shapes[name]:
            raise GraphError(
                f"weight {name} contradicts the configuration",
                expected=list(self._shapes[name]),
                found=list(tensor.dims),
            )
        # The key decides: a pass that moves layers need not rename what it moves.
        if tensor.quantized is None:
            return ops.initializer(graph, renamed(tensor, name))
        parts = tensor.quantized
        ints = ops.initializer(graph, renamed(parts.ints, f"{name}.ints"))
        scales = ops.initializer(graph, renamed(parts.scales, f"{name}.scales"))
        return ops.dequantize(graph, ints, scales, block_size=parts.block_size, name=name)

    def require_all_used(self) -> None:
        unused = set(self._tensors) - set(self._entered)
        if unused:
            raise CheckpointError(
                f"{len(unused)} tensors of the checkpoint are not part of the model",
                expected="every tensor used exactly once",
                found=", ".join(sorted(unused)[:8]),
            )


def build(config: ModelConfig, tensors: Mapping[str, RowTensor], *, name: str = "llama") -> ir.Model:
    """Build the graph of a Llama-architecture decoder.

    Inputs: ``tokens`` and ``positions`` int64 ``[batch, seq_len]``, ``past_key.N`` and ``past_value.N`` float32
    ``[batch, n_kv_heads, past_len, head_dim]``. Outputs: ``logits`` float32 ``[batch, seq_len, vocab_size]``,
    ``present_key.N`` and ``present_value.N``.

    Args:
        config: Hyperparameters; ``tied_embeddings`` must be known.
        tensors: Canonical name -> weight; one that offers its integers and scales enters the graph as these. No
            weight is read.
        name: Name of the graph.

    Raises:
        CheckpointError: If a weight is missing or one is left over.
        GraphError: If a weight's shape contradicts the configuration.
    """
    if config.tied_embeddings is None:
        raise CheckpointError("it is not known yet whether the head is tied", hint="call resolve_tied_head first")
    graph = ir.Graph((), (), nodes=(), opset_imports={"": OPSET, DOMAIN: DOMAIN_VERSION}, name=name)
    weight = _Weights(graph, config, tensors)

    def graph_input(input_name: str, dtype: ir.DataType, shape: tuple[ops.Dim, ...]) -> ir.Value:
        value = ir.Value(name=input_name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        graph.inputs.append(value)
        return value

    tokens = graph_input("tokens", ir.DataType.INT64, ("batch", "seq_len"))
    positions = graph_input("positions", ir.DataType.INT64, ("batch", "seq_len"))
    frequencies = ops.initializer(graph, from_array(ROPE_INV_FREQ, inv_freq(config)))
    cache_shape = ("batch", config.n_kv_heads, "past_len", config.head_dim)
    presents: list[ir.Value] = []

    h = ops.embedding(graph, tokens, weight("tok_embeddings.weight"), name="tok_embeddings")
    for layer in range(config.n_layers):
        prefix = f"layers.{layer}"
        past_key = graph_input(f"past_key.{layer}", ir.DataType.FLOAT, cache_shape)
        past_value = graph_input(f"past_value.{layer}", ir.DataType.FLOAT, cache_shape)

        def norm(x: ir.Value, kind: str, prefix: str = prefix) -> ir.Value:
            node_name = f"{prefix}.{kind}"
            return ops.rms_norm(graph, x, weight(f"{node_name}.weight"), epsilon=config.norm_eps, name=node_name)

        def linear(x: ir.Value, kind: str, prefix: str = prefix) -> ir.Value:
            node_name = f"{prefix}.{kind}"
            y = ops.linear(graph, x, weight(f"{node_name}.weight"), name=node_name)
            if not config.lora_rank:
                return y
            a, b = (weight(name) for name in adaptor_names(f"{node_name}.weight"))
            return ops.lora(graph, y, x, a, b, scale=config.lora_scale, name=f"{node_name}.adaptor")

        def rope(x: ir.Value, kind: str, n_heads: int, prefix: str = prefix) -> ir.Value:
            return ops.rope(graph, x, positions, frequencies, n_heads=n_heads, name=f"{prefix}.{kind}")

        x = norm(h, "attention_norm")
        q = rope(linear(x, "attention.wq"), "attention.rope_q", config.n_heads)
        k = rope(linear(x, "attention.wk"), "attention.rope_k", config.n_kv_heads)
        v = linear(x, "attention.wv")
        y, key, value = ops.attention(
            graph, q, k, v, past_key, past_value,
            n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
            scale=1.0 / math.sqrt(config.head_dim), name=f"{prefix}.attention",
        )  # fmt: skip
        key.name, value.name = f"present_key.{layer}", f"present_value.{layer}"
        presents += [key, value]
        h = ops.residual(graph, h, linear(y, "attention.wo"), name=f"{prefix}.attention_residual")

        x = norm(h, "ffn_norm")
        hidden = ops.swiglu(
            graph, linear(x, "feed_forward.w1"), linear(x, "feed_forward.w3"), name=f"{prefix}.feed_forward.swiglu"
        )
        if config.ffn_hadamard:
            hidden = ops.hadamard(graph, hidden, name=f"{prefix}.feed_forward.hadamard")
        h = ops.residual(graph, h, linear(hidden, "feed_forward.w2"), name=f"{prefix}.ffn_residual")

    h = ops.rms_norm(graph, h, weight("norm.weight"), epsilon=config.norm_eps, name="norm")
    logits = head(graph, h, weight("tok_embeddings.weight" if config.tied_embeddings else "output.weight"), config)
    graph.outputs.extend([logits, *presents])

    weight.require_all_used()
    functions = [ir.serde.deserialize_function(spec.function) for spec in vocabulary().values()]
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="exporter", functions=functions)
    set_config(model, config)
    return model


def head(graph: ir.Graph, hidden: ir.Value, weight: ir.Value, config: ModelConfig) -> ir.Value:
    """Append the head: logits ``[batch, seq_len, vocab_size]`` from ``hidden [batch, seq_len, dim]``.

    A ``weight`` with rows for some tokens only, those that the configuration keeps, leaves the other logits minus
    infinity.
    """
    if config.kept_tokens is None:
        return ops.linear(graph, hidden, weight, name="logits")
    some = ops.linear(graph, hidden, weight, name=KEPT_LOGITS)
    tokens = ops.initializer(graph, from_array(KEPT_TOKENS, np.array(config.kept_tokens, np.int64)))
    return ops.scatter_logits(graph, some, tokens, vocab_size=config.vocab_size, name="logits")
