"""Every op has a body, a rule and an implementation; every target lowers it or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter import targets
from exporter.errors import GraphError, TargetError
from exporter.ir import interpreter, ops
from exporter.ir.build import config_of, set_config
from exporter.ir.spec import DOMAIN, OPSET, vocabulary
from exporter.ir.verify import verify
from exporter.prune_guard.vocabulary import narrow_head
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options, Subject
from exporter.tensors import from_array
from tests.fixtures.models import ADAPTED_SPEC, LLAMA3_SCALING, TinySpec, weights
from tests.ir.graphs import graph, node, token_ids

SPEC = TinySpec(head_dim=32)
"""A model that every target computes."""


def test_every_op_is_specified_checked_and_implemented() -> None:
    specified = list(vocabulary())
    assert specified == list(interpreter.IMPLEMENTATIONS)
    assert [(DOMAIN, op) for op in specified] == [key for key in ops.INFERENCE if key[0] == DOMAIN]
    assert list(ops.OPERANDS) == list(ops.INFERENCE)
    for op, spec in vocabulary().items():
        assert len(ops.OPERANDS[DOMAIN, op]) == len(spec.inputs)


def test_dequantize_linear_is_the_only_guest() -> None:
    assert set(ops.INFERENCE) - {(DOMAIN, op) for op in vocabulary()} == {("", "DequantizeLinear")}


@pytest.mark.parametrize("op", vocabulary())
def test_a_body_uses_only_standard_ops_and_all_of_its_operands(op: str) -> None:
    body = vocabulary()[op].function
    assert [(opset.domain, opset.version) for opset in body.opset_import] == [("", OPSET)]
    assert {n.domain for n in body.node} == {""}
    assert {name for n in body.node for name in n.input} >= set(body.input)
    references = {a.ref_attr_name for n in body.node for a in n.attribute if a.ref_attr_name}
    assert references == set(vocabulary()[op].attributes)


def test_an_adapted_llama_with_some_tokens_uses_every_op() -> None:
    assert {n.op_type for n in narrow_head(graph(ADAPTED_SPEC), [1, 2]).graph} == set(vocabulary())


# --- Targets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(huggingface_folder: Callable[[TinySpec], Path]) -> Source:
    return open_source(str(huggingface_folder(SPEC)), SourceOptions())


def plan(target: str, source: Source, model: ir.Model) -> None:
    subject = Subject(model, source.tokenizer, source.checkpoint.info)
    targets.get(target).plan(subject, "f32", Options())


def insert(model: ir.Model, consumer: str, make: Callable[[ir.Graph, ir.Value], ir.Value]) -> None:
    """Put the nodes that ``make`` appends between a node and its first operand."""
    reader, n_nodes = node(model, consumer), len(model.graph)
    value = make(model.graph, reader.inputs[0])
    for new in list(model.graph)[n_nodes:]:
        model.graph.remove(new)
        model.graph.insert_before(reader, new)
    reader.replace_input_with(0, value)


def _embedding(graph: ir.Graph, h: ir.Value) -> ir.Value:
    again = ops.embedding(graph, graph.inputs[0], graph.initializers["tok_embeddings.weight"], name="extra.rows")
    return ops.residual(graph, h, again, name="extra")


def _rms_norm(graph: ir.Graph, h: ir.Value) -> ir.Value:
    return ops.rms_norm(graph, h, graph.initializers["norm.weight"], epsilon=TinySpec().norm_eps, name="extra")


def _linear(graph: ir.Graph, h: ir.Value) -> ir.Value:
    up, down = (graph.initializers[f"layers.0.feed_forward.{w}.weight"] for w in ("w1", "w2"))
    return ops.linear(graph, ops.linear(graph, h, up, name="extra.up"), down, name="extra")


def _rope(graph: ir.Graph, q: ir.Value) -> ir.Value:
    return ops.rope(graph, q, graph.inputs[1], graph.initializers["rope.inv_freq"], n_heads=4, name="extra")


def _lora(graph: ir.Graph, h: ir.Value) -> ir.Value:
    a, b = (graph.initializers[f"layers.0.attention.wo.adaptor.{kind}.weight"] for kind in ("A", "B"))
    heads = graph.initializers["layers.0.attention.wq.weight"]
    return ops.lora(graph, h, ops.linear(graph, h, heads, name="extra.up"), a, b, scale=1.5, name="extra")


def _attention(graph: ir.Graph, q: ir.Value) -> ir.Value:
    """The queries as they were before they were rotated."""
    return q.producer().inputs[0]


def _scatter_logits(graph: ir.Graph, h: ir.Value) -> ir.Value:
    """The columns in reverse order."""
    width = int(h.shape[-1])
    columns = ops.initializer(graph, from_array("extra.columns", np.arange(width)[::-1].copy()))
    return ops.scatter_logits(graph, h, columns, vocab_size=width, name="extra")


UNUSUAL: dict[str, tuple[str, Callable[[ir.Graph, ir.Value], ir.Value]]] = {
    "Embedding": ("logits", _embedding),
    "RMSNorm": ("logits", _rms_norm),
    "Linear": ("logits", _linear),
    "Rope": ("layers.1.attention", _rope),
    "Attention": ("layers.1.attention", _attention),
    "SwiGLU": ("logits", lambda graph, h: ops.swiglu(graph, h, h, name="extra")),
    "Hadamard": ("logits", lambda graph, h: ops.hadamard(graph, h, name="extra")),
    "LoRA": ("logits", _lora),
    "Residual": ("logits", lambda graph, h: ops.residual(graph, h, h, name="extra")),
    "ScatterLogits": ("logits", _scatter_logits),
}
"""Op -> a node, and what to put before it to have the op where no Llama has it. The graph stays valid."""

BASES = {"LoRA": TinySpec(lora_rank=4, lora_scale=1.5)}
"""Op -> a model that has it, where a configuration without it would contradict the graph."""


@pytest.mark.parametrize("target", targets.REGISTRY)
@pytest.mark.parametrize(
    "spec", [SPEC, SPEC.replace(tied=True), SPEC.replace(rope_scaling=LLAMA3_SCALING)], ids=["untied", "tied", "scaled"]
)
def test_every_target_lowers_a_llama(target: str, spec: TinySpec, source: Source) -> None:
    plan(target, source, graph(spec))


@pytest.mark.parametrize("op", vocabulary())
def test_an_op_in_an_unusual_place_is_a_valid_graph_of_another_function(op: str) -> None:
    plain, extended = graph(BASES.get(op)), graph(BASES.get(op))
    insert(extended, *UNUSUAL[op])
    verify(extended)
    ids = token_ids(TinySpec().vocab_size)
    assert not np.allclose(interpreter.logits(plain, ids), interpreter.logits(extended, ids), atol=1e-3)


@pytest.mark.parametrize("target", targets.REGISTRY)
@pytest.mark.parametrize("op", vocabulary())
def test_every_target_lowers_an_op_or_refuses_it(op: str, target: str, source: Source) -> None:
    model = graph(BASES.get(op, SPEC).replace(head_dim=SPEC.head_dim))
    insert(model, *UNUSUAL[op])
    try:
        plan(target, source, model)
    except TargetError as refusal:
        assert refusal.expected and refusal.found and refusal.hint


@pytest.mark.parametrize("op", vocabulary())
def test_llama_cpp_computes_one_network_only(op: str, source: Source) -> None:
    model = graph(BASES.get(op))
    insert(model, *UNUSUAL[op])
    with pytest.raises(TargetError, match=r"llama\.cpp cannot compute this graph"):
        plan("gguf", source, model)


def test_gguf_refuses_another_scale_of_the_scores(source: Source) -> None:
    model = graph()
    node(model, "layers.1.attention").attributes.add(ir.AttrFloat32("scale", 0.25))
    with pytest.raises(TargetError, match=r"llama\.cpp cannot compute this graph"):
        plan("gguf", source, model)


def test_gguf_refuses_swapped_operands(source: Source) -> None:
    model = graph()
    swiglu = node(model, "layers.0.feed_forward.swiglu")
    gate, up = swiglu.inputs
    swiglu.replace_input_with(0, up)
    swiglu.replace_input_with(1, gate)
    with pytest.raises(TargetError, match=r"llama\.cpp cannot compute this graph"):
        plan("gguf", source, model)


def test_gguf_refuses_a_narrower_layer(source: Source) -> None:
    model, narrow = graph(), weights(TinySpec(ffn_dim=64))
    for name in ("w1", "w3", "w2"):
        weight = model.graph.initializers[f"layers.1.feed_forward.{name}.weight"]
        tensor = from_array(weight.name, narrow[weight.name])
        weight.const_value, weight.shape = tensor, tensor.shape
    for name in ("w1", "w3", "swiglu"):
        node(model, f"layers.1.feed_forward.{name}").outputs[0].shape = ir.Shape(("batch", "seq_len", 64))
    verify(model)
    with pytest.raises((GraphError, TargetError), match=r"layers\.1\.feed_forward"):
        plan("gguf", source, model)


def drop_last_layer(model: ir.Model) -> None:
    dropped = [n for n in model.graph if n.name.startswith("layers.1.")]
    node(model, "norm").replace_input_with(0, node(model, "layers.0.ffn_residual").outputs[0])
    for value in (v for n in dropped for v in n.outputs if v in model.graph.outputs):
        model.graph.outputs.remove(value)
    model.graph.remove(dropped, safe=True)
    for name in [n for n in model.graph.initializers if n.startswith("layers.1.")]:
        del model.graph.initializers[name]
    for value in [v for v in model.graph.inputs if v.name in ("past_key.1", "past_value.1")]:
        model.graph.inputs.remove(value)


def test_gguf_takes_a_model_with_a_layer_less(source: Source) -> None:
    model = graph()
    drop_last_layer(model)
    set_config(model, config_of(model).replace(n_layers=1))
    plan("gguf", source, model)


def test_gguf_refuses_a_layer_less_that_the_configuration_still_counts(source: Source) -> None:
    model = graph()
    drop_last_layer(model)
    with pytest.raises(GraphError, match="miscounts the layers"):
        plan("gguf", source, model)
