"""A saved graph is the same graph: text, configuration, every bit of every weight; and a plain ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.errors import GraphError
from exporter.ir import interpreter, store
from exporter.ir.build import config_of, set_config
from exporter.ir.printer import format_graph
from exporter.tensors import RowTensor
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, node, token_ids

RECIPES = [None, "f32", "f16", "bf16", "int8", "int4"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("spec", [TinySpec(), TinySpec(tied=True, rope_scaling=LLAMA3_SCALING)], ids=["untied", "tied"])
def test_loading_gives_back_what_was_saved(spec: TinySpec, recipe: str | None, tmp_path: Path) -> None:
    model = graph(spec, recipe)
    store.save(model, tmp_path / "graph.onnx")
    loaded = store.load(tmp_path / "graph.onnx")
    assert format_graph(loaded) == format_graph(model)
    assert config_of(loaded) == config_of(model) == spec.config
    assert bits(loaded) == bits(model)
    ids = token_ids(spec.vocab_size)
    assert np.array_equal(interpreter.logits(loaded, ids), interpreter.logits(model, ids))


def bits(model: ir.Model) -> dict[str, tuple[ir.DataType, bytes]]:
    return {
        name: (value.const_value.dtype, value.const_value.tobytes()) for name, value in model.graph.initializers.items()
    }


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    store.save(graph(recipe="int4"), tmp_path / "graph.onnx")
    loaded = store.load(tmp_path / "graph.onnx")
    (tmp_path / "again").mkdir()
    store.save(loaded, tmp_path / "again" / "graph.onnx")
    for name in ("graph.onnx", "graph.onnx.data"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_saved_graph_stays_lazy(tmp_path: Path) -> None:
    model = graph(recipe="int4")
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    store.save(model, tmp_path / "graph.onnx")
    for name, value in model.graph.initializers.items():
        assert value.const_value is before[name]
        assert isinstance(value.const_value, RowTensor)


def test_weights_are_read_one_at_a_time(tmp_path: Path) -> None:
    model, reads = graph(recipe="f32"), []
    for value in model.graph.initializers.values():
        tensor = value.const_value

        def read(start: int, stop: int, tensor: RowTensor = tensor) -> np.ndarray:
            reads.append(tensor.name)
            return tensor.rows(start, stop)

        value.const_value = RowTensor(tensor.name, tensor.dtype, tensor.dims, read)
    store.save(model, tmp_path / "graph.onnx")
    assert sorted(reads) == sorted(model.graph.initializers), "each once"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_onnx_checker_accepts_the_file(recipe: str | None, tmp_path: Path) -> None:
    store.save(graph(recipe=recipe), tmp_path / "graph.onnx")
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)


def test_the_data_lie_beside_the_graph_and_fill_no_more_than_the_weights(tmp_path: Path) -> None:
    model = graph(recipe="int4")
    store.save(model, tmp_path / "graph.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"graph.onnx", "graph.onnx.data"}
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert (tmp_path / "graph.onnx.data").stat().st_size <= weights
    assert (tmp_path / "graph.onnx").stat().st_size < 1 << 16


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_text("not a graph")
    assert_refused(tmp_path / "graph.onnx", "is not an ONNX file")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "graph.onnx", "is not an ONNX file")


def test_a_graph_of_somebody_else_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["": 23]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    onnx.save(model, tmp_path / "graph.onnx")
    assert_refused(tmp_path / "graph.onnx", "was not written by this exporter")


def test_a_graph_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    model = graph()
    set_config(model, config_of(model).replace(n_layers=3))
    store.save(model, tmp_path / "graph.onnx")
    assert_refused(tmp_path / "graph.onnx", "miscounts the layers")


def test_attributes_survive_to_the_bit(tmp_path: Path) -> None:
    model = graph(TinySpec(norm_eps=1e-6))
    store.save(model, tmp_path / "graph.onnx")
    loaded = store.load(tmp_path / "graph.onnx")
    for name, attribute in (("norm", "epsilon"), ("layers.0.attention", "scale")):
        values = [node(m, name).attributes[attribute].value for m in (model, loaded)]
        assert values[0] == values[1] == np.float32(values[0])


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        store.load(path)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
