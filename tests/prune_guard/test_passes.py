"""Pruning in the graph: what leaves, what stays, and that the rest computes what it did."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import ModelConfig
from exporter.errors import GraphError
from exporter.ir import interpreter
from exporter.ir.blocks import blocks
from exporter.ir.build import build, config_of
from exporter.ir.verify import verify
from exporter.ir.weights import row_tensor
from exporter.names import expected_shapes
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.vocabulary import narrow_head
from exporter.prune_guard.width import narrow_feed_forward
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import PORTABLE_RECIPES
from exporter.tensors import from_array, select_columns, select_rows
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, node, random_inputs, token_ids

SPEC = TinySpec(n_layers=4, dtype="float32")
SPECS = [SPEC, SPEC.replace(tied=True), SPEC.replace(rope_scaling=LLAMA3_SCALING, n_kv_heads=1, dtype="bfloat16")]
IDS = token_ids(SPEC.vocab_size)
KEPT = [3, 4, 5, 100, 575]
HALF = [np.arange(0, 96, 2)] * 4

every_spec = pytest.mark.parametrize("spec", SPECS, ids=["untied", "tied", "bfloat16"])


def logits(model: ir.Model) -> npt.NDArray[np.float32]:
    return interpreter.logits(model, IDS)


def weights_of(model: ir.Model) -> dict[str, npt.NDArray[Any]]:
    return {
        name: (rows := row_tensor(model.graph.initializers[name])).rows(0, rows.n_rows)
        for name in expected_shapes(config_of(model))
    }


def rebuilt(config: ModelConfig, weights: dict[str, npt.NDArray[Any]]) -> ir.Model:
    """The graph that ``build`` makes of a configuration, for comparison with one that a pass has left."""
    return build(config, {name: from_array(name, array) for name, array in weights.items()})


def shape_of(model: ir.Model) -> list[tuple[object, ...]]:
    """Everything that names and wires a graph."""
    nodes = [
        (n.name, n.op_type, [v.name for v in n.inputs], [(v.name, v.shape) for v in n.outputs]) for n in model.graph
    ]
    return [*nodes, tuple(v.name for v in model.graph.inputs), tuple(v.name for v in model.graph.outputs)]


# --- Depth -------------------------------------------------------------------------------------------------------


@every_spec
@pytest.mark.parametrize("dropped", [[0], [3], [1, 2], [0, 1, 3]], ids=str)
def test_a_model_without_blocks_is_the_model_that_never_had_them(spec: TinySpec, dropped: list[int]) -> None:
    before = weights_of(graph(spec))
    kept = [i for i in range(4) if i not in dropped]
    renamed = {old: new for new, old in enumerate(kept)}
    expected = {}
    for name, array in before.items():
        if not name.startswith("layers."):
            expected[name] = array
        elif (layer := int(name.split(".")[1])) in renamed:
            expected[name.replace(f"layers.{layer}.", f"layers.{renamed[layer]}.")] = array
    model = drop_blocks(graph(spec), dropped)
    never = rebuilt(spec.config.replace(n_layers=len(kept)), expected)
    assert shape_of(model) == shape_of(never)
    assert config_of(model) == config_of(never)
    assert np.array_equal(logits(model), logits(never))


def test_a_block_whose_output_is_its_input_can_be_dropped_unnoticed() -> None:
    weights = weights_of(graph(SPEC))
    for name in ("attention.wo", "feed_forward.w2"):
        weights[f"layers.2.{name}.weight"] = np.zeros_like(weights[f"layers.2.{name}.weight"])
    model = rebuilt(SPEC.config, weights)
    before = logits(model)
    assert np.array_equal(logits(drop_blocks(model, [2])), before)


def test_the_caches_of_a_dropped_block_leave_with_it() -> None:
    model = drop_blocks(graph(SPEC), [1])
    inputs = random_inputs(model, batch=2, past=3, new=2)
    result = interpreter.run(model, inputs)
    assert [name for name in result if name.startswith("present_key")] == [f"present_key.{i}" for i in range(3)]


def test_a_quantized_graph_loses_blocks_too() -> None:
    model = drop_blocks(apply_recipe(graph(SPEC), PORTABLE_RECIPES["int4"]), [1])
    assert [block.index for block in blocks(model)] == [0, 1, 2]
    assert node(model, "layers.2.attention.wq.weight").op_type == "DequantizeLinear"


@pytest.mark.parametrize("dropped", [[4], [-1], [0, 1, 2, 3]], ids=str)
def test_blocks_that_are_not_there_and_all_blocks_are_refused(dropped: list[int]) -> None:
    with pytest.raises(GraphError, match="cannot be dropped"):
        drop_blocks(graph(SPEC), dropped)


# --- Width -------------------------------------------------------------------------------------------------------


@every_spec
def test_neurons_that_do_nothing_can_be_cut_out_unnoticed(spec: TinySpec) -> None:
    weights = weights_of(graph(spec))
    for i in range(4):
        weights[f"layers.{i}.feed_forward.w2.weight"][:, 1::2] = 0
    model = rebuilt(spec.config, weights)
    before = logits(model)
    after = logits(narrow_feed_forward(model, HALF))
    assert config_of(model).ffn_dim == 48
    assert np.allclose(after, before, rtol=0, atol=1e-5 * before.std())


def test_every_block_keeps_its_own_neurons() -> None:
    rng = np.random.default_rng(0)
    kept = [np.sort(rng.choice(96, 32, replace=False)) for _ in range(4)]
    before, model = weights_of(graph(SPEC)), narrow_feed_forward(graph(SPEC), kept)
    after = weights_of(model)
    for i, neurons in enumerate(kept):
        for name in ("w1", "w3"):
            assert np.array_equal(
                after[f"layers.{i}.feed_forward.{name}.weight"],
                before[f"layers.{i}.feed_forward.{name}.weight"][neurons],
            )
        assert np.array_equal(
            after[f"layers.{i}.feed_forward.w2.weight"], before[f"layers.{i}.feed_forward.w2.weight"][:, neurons]
        )
    assert shape_of(model) == shape_of(rebuilt(SPEC.config.replace(ffn_dim=32), after))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([np.arange(48)] * 3, "as many neurons"),
        ([*[np.arange(48)] * 3, np.arange(47)], "as many neurons"),
        ([np.arange(1, 97)] * 4, "block 0 cannot keep"),
        ([np.arange(48)[::-1]] * 4, "block 0 cannot keep"),
        ([np.zeros(0, np.intp)] * 4, "block 0 cannot keep"),
    ],
    ids=["too few lists", "two widths", "beyond the last", "not ascending", "none"],
)
def test_lists_that_do_not_fit_are_refused(kept: list[npt.NDArray[np.intp]], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        narrow_feed_forward(graph(SPEC), kept)


def test_a_quantized_mlp_is_refused() -> None:
    with pytest.raises(GraphError, match="quantized already"):
        narrow_feed_forward(apply_recipe(graph(SPEC), PORTABLE_RECIPES["int8"]), HALF)


# --- Vocabulary --------------------------------------------------------------------------------------------------


@every_spec
def test_kept_tokens_have_the_logits_they_had_and_no_other_token_has_one(spec: TinySpec) -> None:
    model = graph(spec)
    before = logits(model)
    after = logits(narrow_head(model, KEPT))
    assert np.allclose(after[:, KEPT], before[:, KEPT], rtol=0, atol=1e-5 * before.std())
    assert np.isneginf(np.delete(after, KEPT, axis=1)).all()
    config = config_of(model)
    assert (config.tied_embeddings, config.kept_tokens, config.vocab_size) == (False, tuple(KEPT), spec.vocab_size)


@every_spec
def test_a_narrow_head_can_be_narrowed_again(spec: TinySpec) -> None:
    twice = narrow_head(narrow_head(graph(spec), KEPT), [100, 4])
    once = narrow_head(graph(spec), [4, 100])
    assert shape_of(twice) == shape_of(once)
    assert np.array_equal(logits(twice), logits(once))


def test_a_narrowed_graph_is_the_one_that_build_makes_of_its_configuration() -> None:
    model = narrow_head(graph(SPEC), KEPT)
    assert shape_of(model) == shape_of(rebuilt(config_of(model), weights_of(model)))


def test_a_narrow_head_is_quantized_as_a_head() -> None:
    model = apply_recipe(narrow_head(graph(SPEC.replace(tied=True)), KEPT), PORTABLE_RECIPES["int4"])
    assert model.graph.initializers["output.weight.ints"].dtype == ir.DataType.INT8
    assert model.graph.initializers["output.tokens"].dtype == ir.DataType.INT64
    assert np.isfinite(logits(model)[:, KEPT]).all()


@pytest.mark.parametrize("tokens", [[576], [-1, 3], []], ids=str)
def test_tokens_without_a_row_are_refused(tokens: list[int]) -> None:
    with pytest.raises(GraphError, match="no rows for these tokens"):
        narrow_head(graph(SPEC), tokens)


def test_a_token_that_has_left_cannot_come_back() -> None:
    with pytest.raises(GraphError, match="no rows for these tokens") as caught:
        narrow_head(narrow_head(graph(SPEC), KEPT), [3, 6])
    assert caught.value.found == "6"


# --- Together ----------------------------------------------------------------------------------------------------


def test_all_three_in_any_order_are_the_same_model() -> None:
    steps = {
        "width": lambda model, n: narrow_feed_forward(model, [np.arange(0, 96, 2)] * n),
        "depth": lambda model, n: drop_blocks(model, [2]),
        "vocabulary": lambda model, n: narrow_head(model, KEPT),
    }
    found = []
    for order in (["width", "depth", "vocabulary"], ["vocabulary", "depth", "width"], ["depth", "width", "vocabulary"]):
        model = graph(SPEC)
        for step in order:
            steps[step](model, config_of(model).n_layers)
        verify(model)
        found.append((sorted(map(repr, shape_of(model))), logits(model)))
    for shape, scores in found[1:]:
        assert shape == found[0][0]
        assert np.array_equal(scores, found[0][1])


def test_no_weight_is_read() -> None:
    def refuse(start: int, stop: int) -> npt.NDArray[Any]:
        raise AssertionError("read")

    model = graph(SPEC)
    for name in expected_shapes(SPEC.config):
        tensor = row_tensor(model.graph.initializers[name])
        tensor.read = refuse
    narrow_head(drop_blocks(narrow_feed_forward(model, HALF), [1]), KEPT)


# --- Slices ------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 39), min_size=1), st.integers(0, 40), st.integers(0, 40))
def test_selected_rows_and_columns_are_those_that_were_asked_for(chosen: set[int], a: int, b: int) -> None:
    array = torch.arange(40 * 40).reshape(40, 40).numpy()
    index = np.array(sorted(chosen))
    start, stop = sorted((min(a, len(index)), min(b, len(index))))
    assert np.array_equal(select_rows(from_array("x", array), index).rows(start, stop), array[index][start:stop])
    start, stop = sorted((a, b))
    assert np.array_equal(select_columns(from_array("x", array), index).rows(start, stop), array[start:stop, index])
