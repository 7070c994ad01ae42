"""Equalisation: another way of writing down the same function."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir import interpreter
from exporter.ir.weights import row_tensor
from exporter.quant import equalize
from exporter.quant.equalize import Equalize, factor
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph, token_ids

SPEC = TinySpec(dtype="float32")
IDS = token_ids(SPEC.vocab_size)
REFERENCE = interpreter.logits(graph(SPEC), IDS)
TOLERANCE = 1e-5
"""Of the logits' standard deviation."""

WIDTHS = {
    "layers.0.attention_norm": SPEC.dim,
    "layers.0.attention": SPEC.n_heads * SPEC.head_dim,
    "layers.1.ffn_norm": SPEC.dim,
    "layers.1.feed_forward.swiglu": SPEC.ffn_dim,
}


def random_factors(seed: int, names: list[str]) -> dict[str, np.ndarray]:
    """Log-normal factors; query heads that share a value head share theirs."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in names:
        if name.endswith("attention"):
            per_value = np.exp(rng.standard_normal((SPEC.n_kv_heads, 1, SPEC.head_dim)))
            found[name] = np.repeat(per_value, SPEC.n_heads // SPEC.n_kv_heads, axis=1).reshape(-1).astype(np.float32)
        else:
            found[name] = np.exp(rng.standard_normal(WIDTHS[name])).astype(np.float32)
    return found


def difference(model: ir.Model) -> float:
    """Largest difference of a logit, in standard deviations."""
    return float(np.abs(interpreter.logits(model, IDS) - REFERENCE).max() / REFERENCE.std())


def equalized(factors: dict[str, np.ndarray]) -> ir.Model:
    model = graph(SPEC)
    Equalize(factors)(model)
    return model


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(list(WIDTHS)), min_size=1, unique=True))
@settings(max_examples=25, deadline=None)
def test_any_factors_anywhere_keep_the_logits(seed: int, names: list[str]) -> None:
    assert difference(equalized(random_factors(seed, names))) <= TOLERANCE


@pytest.mark.parametrize("name", WIDTHS)
def test_a_factor_on_one_side_only_is_noticed(name: str) -> None:
    model = equalized(random_factors(0, [name]))
    reader = next(node for node in model.graph if node.op_type == "Linear" and node.inputs[0].name == name)
    untouched = graph(SPEC).graph.initializers[reader.inputs[1].name]
    reader.inputs[1].const_value = untouched.const_value
    assert difference(model) > 100 * TOLERANCE


def test_powers_of_two_change_no_significand() -> None:
    factors = {name: np.exp2(np.round(np.log2(f))) for name, f in random_factors(1, list(WIDTHS)).items()}
    before, after = graph(SPEC), equalized(factors)
    for name, value in before.graph.initializers.items():
        a, b = (np.frexp(row_tensor(m.graph.initializers[name]).rows_f32(0, 4))[0] for m in (before, after))
        assert np.array_equal(a, b), value


def test_the_factor_undoes_every_rescaling() -> None:
    rng = np.random.default_rng(0)
    energy, columns, scale = np.exp(rng.standard_normal((3, 64))).astype(np.float32)
    before = factor(energy, columns)
    after = factor(energy * scale**2, columns / scale**2)
    relative = after / (before * scale)
    np.testing.assert_allclose(relative, relative.mean(), rtol=1e-5)


def test_silent_channels_keep_their_size() -> None:
    energy, columns = np.array([0, 1, 4, 1], np.float32), np.array([1, 0, 1, 1], np.float32)
    assert (factor(energy, columns)[:2] == 1).all()
    assert (factor(np.zeros(4, np.float32), columns) == 1).all()


def refused(factors: dict[str, np.ndarray], spec: TinySpec = SPEC) -> GraphError:
    with pytest.raises(passes.InvariantError) as caught:
        Equalize(factors)(graph(spec))
    assert isinstance(caught.value.__cause__, GraphError)
    return caught.value.__cause__


def test_an_activation_that_nothing_absorbs_is_refused() -> None:
    assert "nothing absorbs factors of tok_embeddings" in refused({"tok_embeddings": np.ones(64, np.float32)}).message
    assert "nothing absorbs" in refused({"layers.0.attention_norm": np.ones(3, np.float32)}).message


def test_a_tied_head_absorbs_nothing() -> None:
    assert "two users" in refused({"norm": np.full(64, 2, np.float32)}, SPEC.replace(tied=True)).message


def test_heads_that_share_their_values_share_their_factors() -> None:
    factors = {"layers.0.attention": np.arange(1, 97, dtype=np.float32)}
    with pytest.raises(Exception, match="differ between heads"):
        Equalize(factors)(graph(SPEC))


def test_shared_and_spread_are_inverse() -> None:
    attention = next(n for n in graph(SPEC).graph if n.op_type == "Attention").outputs[0]
    rows = np.random.default_rng(0).random(SPEC.n_kv_heads * SPEC.head_dim).astype(np.float32)
    np.testing.assert_allclose(equalize.shared(equalize.spread(rows, attention), attention), rows, rtol=1e-6)
