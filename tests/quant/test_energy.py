"""The expected energy of inputs: second moments that follow the function, not the way it is written down."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.ir.build import build
from exporter.quant import rounding
from exporter.quant.energy import RULES, LazyImportance, _swiglu, expected_energy
from exporter.quant.schemes import INT4
from exporter.source import SourceOptions, open_source
from exporter.tensors import from_array
from tests.fixtures.models import ADAPTED_SPEC, TinySpec, write_huggingface
from tests.fixtures.prequantized import hadamard_matrix
from tests.ir.graphs import graph as ir_graph


@pytest.fixture(scope="module")
def spec_and_weights(tmp_path_factory: pytest.TempPathFactory):
    source = open_source(str(write_huggingface(tmp_path_factory.mktemp("model"), TinySpec())), SourceOptions())
    weights = {n: np.array(t.rows_f32(0, t.n_rows)) for n, t in source.checkpoint.tensors.items()}
    return source.config, weights


def graph(config, weights):
    return build(config, {name: from_array(name, array) for name, array in weights.items()})


def test_every_linear_has_the_energy_of_its_inputs(spec_and_weights) -> None:
    config, weights = spec_and_weights
    energies = expected_energy(graph(config, weights))
    matrices = {n: a for n, a in weights.items() if a.ndim == 2 and n != "tok_embeddings.weight"}
    assert set(energies) == set(matrices)
    for name, energy in energies.items():
        assert energy.shape == (matrices[name].shape[1],)
        assert (energy > 0).all()
        assert np.isfinite(energy).all()


def test_every_op_of_the_vocabulary_has_a_rule() -> None:
    from exporter.ir.spec import vocabulary

    assert set(RULES) == set(vocabulary()) - {"ScatterLogits"}, "which follows the head, where nobody looks"


def test_rescaled_channels_change_the_energy_exactly_as_the_function_demands(spec_and_weights) -> None:
    config, weights = spec_and_weights
    rng = np.random.default_rng(0)
    factors = np.exp2(rng.integers(-3, 4, config.dim)).astype(np.float32)  # powers of two: no rounding at all
    same = dict(weights)
    same["layers.0.attention_norm.weight"] = weights["layers.0.attention_norm.weight"] * factors
    for name in ("wq", "wk", "wv"):
        same[f"layers.0.attention.{name}.weight"] = weights[f"layers.0.attention.{name}.weight"] / factors
    before, after = expected_energy(graph(config, weights)), expected_energy(graph(config, same))
    np.testing.assert_allclose(
        after["layers.0.attention.wq.weight"], before["layers.0.attention.wq.weight"] * factors**2, rtol=1e-6
    )
    np.testing.assert_allclose(
        after["layers.1.feed_forward.w2.weight"], before["layers.1.feed_forward.w2.weight"], rtol=1e-5
    )


def test_swiglu_moment_equals_a_simulation() -> None:
    rng = np.random.default_rng(0)
    gate, up = np.array([0.04, 1.0, 25.0], np.float32), np.array([2.0, 1.0, 0.5], np.float32)
    z, u = rng.standard_normal((2, 1_000_000, 3)) * np.sqrt([gate, up])[:, None]
    simulated = np.mean((z / (1 + np.exp(-z)) * u) ** 2, axis=0)
    np.testing.assert_allclose(_swiglu(None, gate, up), simulated, rtol=0.02)


def test_importance_is_uniform_for_a_weight_nobody_multiplies_with(spec_and_weights) -> None:
    importance = LazyImportance(graph(*spec_and_weights))
    assert (importance(from_array("unknown.weight", np.ones((2, 64), np.float32))) == 1).all()


def test_asking_reads_the_weights_and_making_it_does_not(spec_and_weights) -> None:
    config, weights = spec_and_weights
    model = graph(config, weights)
    reads = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        original = tensor.read
        tensor.read = lambda a, b, original=original, name=value.name: (reads.append(name), original(a, b))[1]
    importance = LazyImportance(model)
    assert not reads
    importance(from_array("layers.0.attention.wq.weight", weights["layers.0.attention.wq.weight"]))
    assert reads


def test_least_squares_spares_the_columns_that_matter() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 32)).astype(np.float32)
    importance = np.where(np.arange(32) < 8, 10.0, 0.1).astype(np.float32)
    quantize = rounding.get("least-squares")

    def error(weigh: np.ndarray) -> float:
        ints, scales = quantize(x, weigh, INT4)
        return float((importance * (ints * scales - x) ** 2).sum())

    assert error(importance) < 0.9 * error(np.ones(32, np.float32))


def test_a_hadamard_transform_spreads_the_energy_evenly() -> None:
    """As a simulation has it: every output is a sum of all inputs, whatever their signs."""
    rng = np.random.default_rng(0)
    energy = rng.uniform(0.1, 10, 64).astype(np.float32)
    x = rng.standard_normal((20_000, 64)) * np.sqrt(energy)
    transformed = x @ hadamard_matrix(64)
    np.testing.assert_allclose(RULES["Hadamard"](None, energy), np.square(transformed).mean(axis=0), rtol=0.05)


def test_an_adaptor_adds_its_energy() -> None:
    model = ir_graph(ADAPTED_SPEC)
    plain, scaled = expected_energy(model), expected_energy(ir_graph(ADAPTED_SPEC.replace(lora_scale=3.0)))
    name = "layers.0.attention.wo.weight"
    assert (scaled[name] > plain[name]).all()
