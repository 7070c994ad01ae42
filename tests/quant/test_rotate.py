"""Rotation: the same function in another basis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import GraphError
from exporter.ir import interpreter
from exporter.ir.build import config_of
from exporter.ir.passes import run
from exporter.ir.weights import row_tensor
from exporter.quant.apply import apply_recipe
from exporter.quant.rotate import Rotate, Rotation
from exporter.quant.schemes import PORTABLE_RECIPES
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph, token_ids

SPEC = TinySpec(dtype="float32")
IDS = token_ids(SPEC.vocab_size)
TOLERANCE = 1e-5
"""Of the logits' standard deviation."""


def difference(model: ir.Model, reference: ir.Model) -> float:
    expected = interpreter.logits(reference, IDS)
    return float(np.abs(interpreter.logits(model, IDS) - expected).max() / expected.std())


@given(st.sampled_from([1, 2, 3, 6, 8, 24, 36, 64]), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_rotation_is_orthogonal(width: int, seed: int) -> None:
    matrix = Rotation.of(width, seed)(np.eye(width))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)


@pytest.mark.parametrize("spec", [SPEC, SPEC.replace(tied=True), SPEC.replace(dim=48, ffn_dim=72)])
def test_a_rotated_model_computes_the_same(spec: TinySpec) -> None:
    model = graph(spec)
    Rotate()(model)
    assert difference(model, graph(spec)) < TOLERANCE
    assert not config_of(model).tied_embeddings
    assert all((row_tensor(v).rows_f32(0, 4) == 1).all() for n, v in model.graph.initializers.items() if "norm" in n)
    # And it is another model: every matrix that the stream or a value passes has other weights.
    for name, value in graph(spec).graph.initializers.items():
        if name.endswith(".weight") and "norm" not in name:
            before, after = (row_tensor(v).rows_f32(0, 4) for v in (value, model.graph.initializers[name]))
            assert not np.allclose(before, after), name


def test_it_is_found_out_if_a_matrix_is_left_out() -> None:
    model = graph(SPEC)
    original = row_tensor(model.graph.initializers["layers.1.attention.wo.weight"])
    Rotate()(model)
    model.graph.initializers["layers.1.attention.wo.weight"].const_value = original
    assert difference(model, graph(SPEC)) > 1e3 * TOLERANCE


def test_rows_are_the_same_in_whatever_pieces_they_are_read() -> None:
    model = graph(SPEC)
    Rotate(seed=3)(model)
    for value in model.graph.initializers.values():
        tensor = row_tensor(value)
        pieces = [tensor.rows(at, min(at + 5, tensor.n_rows)) for at in range(0, tensor.n_rows, 5)]
        np.testing.assert_array_equal(np.concatenate(pieces), tensor.rows(0, tensor.n_rows))


def test_an_outlier_is_spread_over_the_channels() -> None:
    """What it is for: the channel that spoils the group it is in, or the scale of a token, is none in the new basis."""
    rows = np.zeros((1, 64), np.float32)
    rows[0, 5] = 8.0
    assert np.abs(Rotation.of(64, 0)(rows)).max() == pytest.approx(1.0)


def test_integers_are_not_rotated() -> None:
    model = apply_recipe(graph(SPEC), PORTABLE_RECIPES["int8"])
    with pytest.raises(GraphError, match="cannot be rotated"):
        run(Rotate(), model)
