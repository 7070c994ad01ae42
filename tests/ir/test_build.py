"""Building reads no weight, uses each exactly once, and refuses what the configuration does not describe."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from exporter.errors import CheckpointError, GraphError
from exporter.ir.build import build, config_of
from exporter.ir.printer import format_graph
from exporter.ir.verify import verify
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import PORTABLE_RECIPES
from exporter.tensors import Array, RowTensor, from_array
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, node, tensors


def unreadable(tensor: RowTensor) -> RowTensor:
    def read(start: int, stop: int) -> Array:
        raise AssertionError(f"{tensor.name} was read")

    return RowTensor(str(tensor.name), tensor.dtype, tensor.dims, read)


@pytest.mark.parametrize("recipe", [None, *PORTABLE_RECIPES])
@pytest.mark.parametrize("tied", [False, True])
def test_building_verifying_rewriting_and_printing_read_no_weight(recipe: str | None, tied: bool) -> None:
    spec = TinySpec(tied=tied)
    model = build(spec.config, {name: unreadable(tensor) for name, tensor in tensors(spec).items()})
    if recipe is not None:
        apply_recipe(model, PORTABLE_RECIPES[recipe])
    verify(model)
    format_graph(model)


def test_about_ten_nodes_a_layer() -> None:
    ops = [n.op_type for n in graph(TinySpec(n_layers=1)).graph]
    layer = (
        "RMSNorm Linear Rope Linear Rope Linear Attention Linear Residual RMSNorm Linear Linear SwiGLU Linear Residual"
    )
    assert ops == ["Embedding", *layer.split(), "RMSNorm", "Linear"]


def test_the_configuration_travels_with_the_graph() -> None:
    spec = TinySpec(rope_scaling=LLAMA3_SCALING, tied=True)
    assert config_of(graph(spec)) == spec.config


def test_inputs_and_outputs_are_those_of_one_decoding_step() -> None:
    model = graph()
    shapes = {str(v.name): [d if isinstance(d, int) else d.value for d in v.shape] for v in model.graph.inputs}
    cache = ["batch", 2, "past_len", 24]
    assert shapes == {
        "tokens": ["batch", "seq_len"],
        "positions": ["batch", "seq_len"],
        "past_key.0": cache,
        "past_value.0": cache,
        "past_key.1": cache,
        "past_value.1": cache,
    }
    names = [v.name for v in model.graph.outputs]
    assert names == ["logits", "present_key.0", "present_value.0", "present_key.1", "present_value.1"]


def test_scores_are_scaled_by_the_head_width_of_the_model() -> None:
    scale = node(graph(), "layers.0.attention").attributes["scale"].value
    assert scale == np.float32(1 / math.sqrt(24)), "of 24, not of dim / n_heads = 16"


def test_a_tied_head_is_one_weight_with_two_users() -> None:
    model = graph(TinySpec(tied=True))
    embedding = model.graph.initializers["tok_embeddings.weight"]
    assert [user.name for user, _ in embedding.uses()] == ["tok_embeddings", "logits"]
    assert "output.weight" not in model.graph.initializers


def test_every_weight_keeps_its_stored_type() -> None:
    types = {value.dtype for name, value in graph().graph.initializers.items() if name != "rope.inv_freq"}
    assert types == {ir.DataType.BFLOAT16}


def test_a_weight_goes_where_its_key_says_whatever_its_own_name() -> None:
    spec = TinySpec()
    weights = tensors(spec)
    first, second = "layers.0.attention.wo.weight", "layers.1.attention.wo.weight"
    weights[first], weights[second] = weights[second], weights[first]
    initializers = build(spec.config, weights).graph.initializers
    for name in (first, second):
        assert initializers[name].const_value.tobytes() == weights[name].tobytes()


def test_a_missing_weight_is_refused() -> None:
    weights = tensors(TinySpec())
    del weights["layers.1.ffn_norm.weight"]
    with pytest.raises(CheckpointError, match=r"no tensor layers\.1\.ffn_norm\.weight"):
        build(TinySpec().config, weights)


def test_a_weight_too_many_is_refused() -> None:
    weights = tensors(TinySpec())
    weights["layers.0.attention.wq.bias"] = from_array("layers.0.attention.wq.bias", np.zeros(96, np.float32))
    with pytest.raises(CheckpointError) as caught:
        build(TinySpec().config, weights)
    assert caught.value.found == "layers.0.attention.wq.bias"


def test_a_head_beside_tied_embeddings_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        build(TinySpec(tied=True).config, tensors(TinySpec()))
    assert caught.value.found == "output.weight"


def test_an_undecided_head_is_refused() -> None:
    with pytest.raises(CheckpointError, match="tied"):
        build(TinySpec().config.replace(tied_embeddings=None), tensors(TinySpec()))


@pytest.mark.parametrize("change", [{"ffn_dim": 128}, {"vocab_size": 600}, {"dim": 32}, {"n_kv_heads": 1}])
def test_weights_of_another_shape_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(GraphError, match="contradicts the configuration"):
        build(TinySpec().config.replace(**change), tensors(TinySpec()))


def test_one_narrower_layer_is_refused() -> None:
    weights, narrow = tensors(TinySpec()), tensors(TinySpec(ffn_dim=64))
    weights |= {name: t for name, t in narrow.items() if name.startswith("layers.1.feed_forward")}
    with pytest.raises(GraphError, match=r"layers\.1\.feed_forward"):
        build(TinySpec().config, weights)


def test_the_text_names_every_op_type_and_weight_once() -> None:
    model = graph(recipe="int4")
    lines = format_graph(model).splitlines()
    assert lines[0] == "graph tiny(%tokens: i64[batch, seq_len], %positions: i64[batch, seq_len], 4 cache tensors) {"
    assert "  # layers.1" in lines
    assert (
        "  %layers.0.attention.wq.weight = DequantizeLinear"
        "(@layers.0.attention.wq.weight.ints, @layers.0.attention.wq.weight.scales)"
        " {axis=1, block_size=32} : f32[96, 64]"
    ) in lines
    assert (
        "  %layers.0.attention.wq = Linear(%layers.0.attention_norm, %layers.0.attention.wq.weight)"
        " : f32[batch, seq_len, 96]"
    ) in lines
    assert "  %norm = RMSNorm(%layers.1.ffn_residual, @norm.weight) {epsilon=1e-05} : f32[batch, seq_len, 64]" in lines
    assert len([line for line in lines if " = " in line]) == len(model.graph)
