"""Recipes: what changes, what does not, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import GraphError
from exporter.ir import interpreter
from exporter.ir.build import build, config_of
from exporter.ir.verify import verify
from exporter.ir.weights import float_rows, is_quantized, quantized_parts, quantized_weights
from exporter.quant import rounding
from exporter.quant.apply import ApplyRecipe, apply_recipe, roles
from exporter.quant.blocks import quantize_tensor
from exporter.quant.energy import LazyImportance
from exporter.quant.schemes import (
    EMBEDDING,
    HEAD,
    INT4,
    INT8,
    INT8_ROWS,
    LINEAR,
    NORM,
    PORTABLE_RECIPES,
    Recipe,
    Rule,
    Scheme,
)
from exporter.tensors import Array, QuantizedRows, RowTensor, dequantized, from_array
from tests.fixtures.models import TinySpec
from tests.fixtures.prequantized import SPECS as PREQUANTIZED
from tests.fixtures.prequantized import stored_tensors
from tests.ir.graphs import graph, node, tensors, token_ids, weight_values
from tests.quant.oracle import decode, ones, uniform

RECIPES = list(PORTABLE_RECIPES)
UNTIED, TIED = TinySpec(), TinySpec(tied=True)
IDS = token_ids(UNTIED.vocab_size)


def decoded(model: ir.Model) -> dict[str, np.ndarray]:
    """Canonical name -> float32 weight."""
    rows = {str(value.name): float_rows(value) for value in weight_values(model)}
    return {name: tensor.rows_f32(0, tensor.n_rows) for name, tensor in rows.items()}


def wiring(model: ir.Model) -> list[tuple[object, ...]]:
    """Everything but the weights: ops, attributes, and which value goes where."""
    return [
        (n.name, n.op_type, [v.name for v in n.inputs], [v.name for v in n.outputs], dict(n.attributes))
        for n in model.graph
        if n.op_type != "DequantizeLinear"
    ]


# --- What every recipe keeps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("spec", [UNTIED, TIED], ids=["untied", "tied"])
def test_a_recipe_changes_nothing_but_weights(spec: TinySpec, recipe: str) -> None:
    before, after = graph(spec), graph(spec, recipe)
    verify(after)
    assert wiring(after) == wiring(before)
    assert config_of(after) == config_of(before)
    assert list(decoded(after)) == list(decoded(before))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_rewritten_graph_computes_what_its_decoded_weights_compute(recipe: str) -> None:
    model = graph(recipe=recipe)
    plain = {name: from_array(name, array) for name, array in decoded(model).items() if name != "rope.inv_freq"}
    expected = interpreter.logits(build(UNTIED.config, plain), IDS)
    assert np.array_equal(interpreter.logits(model, IDS), expected)


@pytest.mark.parametrize("recipe", ["f32", "bf16"])
def test_a_type_that_holds_the_source_leaves_the_logits_bit_equal(recipe: str) -> None:
    assert np.array_equal(interpreter.logits(graph(recipe=recipe), IDS), interpreter.logits(graph(), IDS))


@pytest.mark.parametrize("recipe", RECIPES)
def test_norms_and_frequencies_become_float32_and_keep_their_values(recipe: str) -> None:
    before, after = graph(), graph(recipe=recipe)
    for name in ("norm.weight", "layers.1.ffn_norm.weight", "rope.inv_freq"):
        assert after.graph.initializers[name].dtype == ir.DataType.FLOAT
        assert np.array_equal(decoded(after)[name], decoded(before)[name])


@pytest.mark.parametrize(("recipe", "bits"), [("int8", 7), ("int4", 3)])
def test_quantized_weights_are_near_the_source(recipe: str, bits: int) -> None:
    before, after = decoded(graph()), decoded(graph(recipe=recipe))
    for name, weight in before.items():
        assert np.abs(after[name] - weight).max() <= 1.3 * np.abs(weight).max() / 2**bits, name
    assert not np.array_equal(after["layers.0.attention.wq.weight"], before["layers.0.attention.wq.weight"])


# --- Who gets what -----------------------------------------------------------------------------------------------


def test_roles_follow_from_the_graph() -> None:
    found = {name: roles(value) for name, value in graph().graph.initializers.items()}
    assert found["tok_embeddings.weight"] == {EMBEDDING}
    assert found["output.weight"] == {HEAD}
    assert found["layers.0.attention.wo.weight"] == {LINEAR}
    assert found["norm.weight"] == {NORM}
    assert found["rope.inv_freq"] == set()
    assert roles(graph(TIED).graph.initializers["tok_embeddings.weight"]) == {EMBEDDING, HEAD}


@pytest.mark.parametrize("spec", [UNTIED, TIED], ids=["untied", "tied"])
def test_int4_gives_linears_4_bits_and_embedding_and_head_8(spec: TinySpec) -> None:
    for value in weight_values(graph(spec, "int4")):
        if is_quantized(value):
            ints, scales, block = quantized_parts(value)
            outer = value.name in ("tok_embeddings.weight", "output.weight")
            assert ints.dtype == (ir.DataType.INT8 if outer else ir.DataType.INT4)
            assert (scales.dtype, block) == (ir.DataType.FLOAT, 32)
        else:
            assert len(value.shape) == 1


def test_a_tied_embedding_is_decoded_once_for_both_users() -> None:
    model = graph(TIED, "int4")
    decoder = node(model, "tok_embeddings.weight")
    assert [user.name for user, _ in decoder.outputs[0].uses()] == ["tok_embeddings", "logits"]
    assert [n for n in model.graph if n.op_type == "DequantizeLinear"].count(decoder) == 1
    assert next(iter(model.graph)) is decoder, "in front of its first user"


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_every_decoder_stands_right_before_its_user(recipe: str) -> None:
    nodes = list(graph(recipe=recipe).graph)
    for i, n in enumerate(nodes):
        if n.op_type == "DequantizeLinear":
            assert n.outputs[0] in nodes[i + 1].inputs


def test_the_method_is_a_parameter() -> None:
    name = "layers.0.attention.wq.weight"
    for method in ("nearest", "least-squares"):
        model = apply_recipe(graph(), PORTABLE_RECIPES["int4"], {"int4": method})
        ints, scales, _ = quantized_parts(node(model, name).outputs[0])
        source = decoded(graph())[name]
        importance = LazyImportance(graph())(from_array(name, source))
        expected = rounding.get(method)(source, importance, INT4)
        assert np.array_equal(ints.rows(0, 96), expected[0])
        assert np.array_equal(scales.rows(0, 96), expected[1])


# --- Decoding ----------------------------------------------------------------------------------------------------


QUANTIZED = {
    recipe: node(graph(recipe=recipe), "layers.0.feed_forward.w1.weight").outputs[0] for recipe in ("int4", "int8")
}


@given(st.integers(0, 96), st.integers(0, 96))
def test_decoded_rows_are_integers_times_scales(a: int, b: int) -> None:
    start, stop = sorted([a, b])
    for scheme in (INT4, INT8):
        value = QUANTIZED[scheme.name]
        ints, scales, block = quantized_parts(value)
        expected = decode(ints.rows(start, stop), scales.rows(start, stop), block)
        found = float_rows(value)
        assert (found.dtype, found.dims) == (ir.DataType.FLOAT, (96, 64))
        assert np.array_equal(found.rows(start, stop), expected.astype(np.float32))


class Counted:
    """A weight that counts how often its rows are read."""

    def __init__(self, n_rows: int = 64) -> None:
        self.array = np.random.default_rng(0).standard_normal((n_rows, 64)).astype(np.float32)
        self.n_reads = 0
        self._lock = threading.Lock()

    def tensor(self) -> RowTensor:
        return RowTensor("counted", ir.DataType.FLOAT, self.array.shape, self._read)

    def _read(self, start: int, stop: int) -> Array:
        with self._lock:
            self.n_reads += 1
        return self.array[start:stop]


def test_integers_and_scales_of_the_same_rows_are_computed_once() -> None:
    source = Counted()
    ints, scales = quantize_tensor(source.tensor(), INT4, rounding.get("nearest"), ones)
    assert source.n_reads == 0, "lazily"
    for start in (0, 16, 32):
        ints.rows(start, start + 16)
        scales.rows(start, start + 16)
    assert source.n_reads == 3


def test_each_thread_remembers_its_own_rows() -> None:
    source = Counted()
    ints, scales = quantize_tensor(source.tensor(), INT4, rounding.get("nearest"), ones)
    ints.rows(0, 16)
    with ThreadPoolExecutor(1) as other:
        other.submit(ints.rows, 16, 32).result()
        scales.rows(0, 16)
        other.submit(scales.rows, 16, 32).result()
    assert source.n_reads == 2


def test_threads_do_not_see_each_others_rows() -> None:
    source = Counted(n_rows=512)
    ints, scales = quantize_tensor(source.tensor(), INT4, rounding.get("nearest"), ones)
    expected_ints, expected_scales = uniform("nearest")(source.array, INT4)

    def check(start: int) -> bool:
        stop = start + 8
        return np.array_equal(ints.rows(start, stop), expected_ints[start:stop]) and np.array_equal(
            scales.rows(start, stop), expected_scales[start:stop]
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, list(range(0, 512, 8)) * 4))


# --- Refusals ----------------------------------------------------------------------------------------------------


def test_columns_that_do_not_divide_into_groups_are_refused() -> None:
    with pytest.raises(GraphError) as caught:
        graph(TinySpec(ffn_dim=80), "int4")
    error = caught.value
    assert "layers.0.feed_forward.w2.weight cannot be quantized to int4" in error.message
    assert (error.expected, error.found) == ("columns in multiples of 32", "80")
    assert error.hint


def test_a_weight_beyond_float16_is_refused_with_the_way_out() -> None:
    weights = tensors(TinySpec(dtype="float32"))
    big = weights["output.weight"].rows(0, 576).copy()
    big[7, 3] = -70000.0
    weights["output.weight"] = from_array("output.weight", big)
    model = apply_recipe(build(UNTIED.config, weights), PORTABLE_RECIPES["f16"])
    rows = float_rows(model.graph.initializers["output.weight"])
    rows.rows(8, 16)
    with pytest.raises(GraphError) as caught:
        rows.rows(0, 8)
    assert "output.weight does not fit into float16" in caught.value.message
    assert caught.value.found == "70000.0"
    assert caught.value.hint is not None and "bf16" in caught.value.hint


@pytest.mark.parametrize(("scheme", "limit"), [(INT4, 65280.0 * 7), (INT8, 65280.0 * 127)], ids=["int4", "int8"])
@pytest.mark.parametrize("method", ["nearest", "least-squares"])
def test_a_weight_beyond_the_largest_scale_is_refused_not_clipped(scheme: Scheme, limit: float, method: str) -> None:
    def rows(largest: float) -> Array:
        array = np.ones((2, 64), np.float32)
        array[1, 40] = largest
        ints, _ = quantize_tensor(from_array("big", array), scheme, rounding.get(method), ones)
        return ints.rows(0, 2)

    assert rows(0.99 * limit)[1, 40] == scheme.qmax
    with pytest.raises(GraphError) as caught:
        rows(1.01 * limit)
    assert "big does not fit" in caught.value.message
    assert caught.value.hint is not None
    assert "bf16" in caught.value.hint


def test_an_invalid_graph_is_refused_as_what_it_is() -> None:
    model = graph()
    node(model, "norm").op_type = "LayerNorm"
    with pytest.raises(GraphError, match="outside the vocabulary"):
        apply_recipe(model, PORTABLE_RECIPES["f32"])


def test_a_pass_says_whether_it_changed_anything() -> None:
    assert ApplyRecipe(PORTABLE_RECIPES["int4"])(graph()).modified
    empty = ApplyRecipe(Recipe("nothing", ()))(graph())
    assert not empty.modified


# --- Weights that are quantized already --------------------------------------------------------------------------

ROWS_AND_GROUPS = Recipe("as Meta's", (Rule(frozenset({EMBEDDING, HEAD}), INT8_ROWS), Rule(frozenset({LINEAR}), INT4)))


def quantized_by_somebody(spec: TinySpec) -> ir.Model:
    found = {name: from_array(name, array) for name, array in stored_tensors(spec).items()}
    for name in [name for name in found if name.endswith(".scales")]:
        weight, scales = found[name.replace(".scales", ".weight")], found.pop(name)
        dtype = ir.DataType.INT8 if scales.dims[1] == 1 else ir.DataType.INT4
        ints = RowTensor(str(weight.name), dtype, weight.dims, weight.read)
        parts = QuantizedRows(ints, scales, weight.dims[1] // scales.dims[1])
        found[str(weight.name)] = dequantized(str(weight.name), parts)
    return build(spec.config, found)


@pytest.fixture(params=PREQUANTIZED, ids=PREQUANTIZED)
def prequantized(request: pytest.FixtureRequest) -> ir.Model:
    return quantized_by_somebody(PREQUANTIZED[request.param])


def test_integers_that_fit_the_recipe_stay(prequantized: ir.Model) -> None:
    before = {str(w.name): quantized_parts(w)[:2] for w in quantized_weights(prequantized)}
    after = apply_recipe(prequantized, ROWS_AND_GROUPS)
    for weight in quantized_weights(after):
        assert quantized_parts(weight)[:2] == before.pop(str(weight.name))
    assert not before


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.BFLOAT16])
def test_a_recipe_of_floats_decodes_them(dtype: ir.DataType, prequantized: ir.Model) -> None:
    expected, wires = decoded(prequantized), wiring(prequantized)
    names = [str(weight.name) for weight in quantized_weights(prequantized)]
    recipe = Recipe("floats", (Rule(frozenset({EMBEDDING, HEAD, LINEAR, NORM}), dtype),))
    after = apply_recipe(prequantized, recipe)
    verify(after)
    assert not quantized_weights(after)
    assert wiring(after) == wires
    found = decoded(after)
    assert set(found) == set(expected)
    for name in names:
        assert np.array_equal(found[name], expected[name].astype(dtype.numpy()).astype(np.float32)), name


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_others_are_never_chosen(recipe: str, prequantized: ir.Model) -> None:
    with pytest.raises(GraphError, match="is quantized already") as caught:
        apply_recipe(prequantized, PORTABLE_RECIPES[recipe])
    assert caught.value.found == "8 bits, one scale a row"
    assert caught.value.hint
