"""Scores, against the same numbers computed the plain way: the whole model in memory, every activation kept."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch

from exporter.errors import GraphError
from exporter.ir import interpreter
from exporter.ir.blocks import Block, blocks
from exporter.ir.blockwise import Blockwise, LoadedBlock
from exporter.ir.weights import row_tensor
from exporter.prune_guard import methods
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.importance import (
    block_magnitudes,
    greedy_removals,
    measure,
    neuron_magnitudes,
    perplexity,
)
from exporter.prune_guard.vocabulary import narrow_head
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import PORTABLE_RECIPES
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, token_ids

SPEC = TinySpec(n_layers=4, dtype="float32", rope_scaling=LLAMA3_SCALING)
SEQUENCES = [token_ids(SPEC.vocab_size, n, seed) for seed, n in enumerate((24, 17, 9))]


def silent(n: int) -> None:
    pass


def activations(model: ir.Model, ids: list[int]) -> dict[str, npt.NDArray[np.float64]]:
    """Node name -> output, of the ordinary interpreter."""
    found: dict[str, npt.NDArray[np.float64]] = {}

    def observe(node: ir.Node, output: torch.Tensor) -> None:
        found[str(node.name)] = output[0].double().numpy()

    interpreter.logits(model, ids, observe)
    return found


def loss(model: ir.Model, sequences: list[list[int]]) -> float:
    """Mean negative log likelihood from the interpreter's logits."""
    found = []
    for ids in sequences:
        scores = torch.from_numpy(interpreter.logits(model, ids)).double().log_softmax(-1)
        found += [-scores[i, token] for i, token in enumerate(ids[1:])]
    return float(torch.stack(found).mean())


# --- Block by block ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [None, "int4"])
def test_block_by_block_is_the_interpreter(recipe: str | None) -> None:
    model = graph(SPEC, recipe)
    expected = activations(model, SEQUENCES[0])
    run = Blockwise(model)
    stream = run.embed(SEQUENCES[0])
    for block in run.blocks:
        stream = run.load(block)(stream)
        assert np.array_equal(stream[0].double().numpy(), expected[f"layers.{block.index}.ffn_residual"])
    assert np.array_equal(run.last_hidden(stream)[0].double().numpy(), expected["norm"])


def test_the_perplexity_is_that_of_the_logits() -> None:
    model = graph(SPEC)
    assert math.isclose(perplexity(model, SEQUENCES, silent), math.exp(loss(model, SEQUENCES)), rel_tol=1e-6)


def test_losses_do_not_depend_on_how_the_head_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perplexity(graph(SPEC), SEQUENCES, silent)
    monkeypatch.setattr("exporter.ir.blockwise.SLAB_BYTES", 4 * 64 * 7)
    monkeypatch.setattr("exporter.ir.blockwise.HEAD_TOKENS", 5)
    assert math.isclose(perplexity(graph(SPEC), SEQUENCES, silent), whole, rel_tol=1e-6)


def test_a_head_with_some_tokens_has_no_perplexity() -> None:
    with pytest.raises(GraphError, match="gives no probability"):
        perplexity(narrow_head(graph(SPEC), [3, 4]), SEQUENCES, silent)


def test_the_weights_of_one_block_are_in_memory_at_a_time() -> None:
    """While a block is loaded, nothing of another one is read, and it is read once."""
    model, reads = graph(SPEC), list[str]()
    for block in blocks(model):
        for value in {v for node in block.nodes for v in node.inputs if v is not None and v.is_initializer()}:
            tensor = row_tensor(value)
            read = tensor.read

            def counted(a: int, b: int, name: str = str(value.name), read: Any = read) -> Any:
                reads.append(name)
                return read(a, b)

            tensor.read = counted
    measure(model, SEQUENCES, silent)
    matrices = [name for name in reads if name.startswith("layers.")]
    assert len(matrices) == len(set(matrices)) == 4 * 9
    assert [int(name.split(".")[1]) for name in matrices] == sorted(int(name.split(".")[1]) for name in matrices)


# --- Scores ------------------------------------------------------------------------------------------------------


def test_block_influence_is_one_minus_the_mean_cosine() -> None:
    model = graph(SPEC)
    cosines = [[] for _ in range(4)]  # type: list[list[float]]
    for ids in SEQUENCES:
        found = activations(model, ids)
        stream = [found["tok_embeddings"], *(found[f"layers.{i}.ffn_residual"] for i in range(4))]
        for i, (x, y) in enumerate(itertools.pairwise(stream)):
            cosines[i] += ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).tolist()
    expected = [1 - np.mean(c) for c in cosines]
    assert np.allclose(measure(model, SEQUENCES, silent).influence, expected, rtol=1e-9)


def test_activations_are_norms_over_a_sequence_averaged_over_sequences() -> None:
    model = graph(SPEC)
    expected = np.zeros((4, SPEC.ffn_dim))
    for ids in SEQUENCES:
        found = activations(model, ids)
        expected += [np.linalg.norm(found[f"layers.{i}.feed_forward.swiglu"], axis=0) for i in range(4)]
    assert np.allclose(measure(model, SEQUENCES, silent).activation, expected / len(SEQUENCES), rtol=1e-9)


def test_magnitudes_are_sums_over_the_weights() -> None:
    model = graph(SPEC)
    weights = {n: row_tensor(v).rows_f32(0, row_tensor(v).n_rows) for n, v in model.graph.initializers.items()}
    for i in range(4):
        own = {n: w for n, w in weights.items() if n.startswith(f"layers.{i}.") and w.ndim == 2}
        assert math.isclose(block_magnitudes(model)[i], sum(np.abs(w).sum() for w in own.values()), rel_tol=1e-5)
        gate, up, down = (own[f"layers.{i}.feed_forward.{w}.weight"] for w in ("w1", "w3", "w2"))
        norms = np.linalg.norm(gate, axis=1) + np.linalg.norm(up, axis=1) + np.linalg.norm(down, axis=0)
        assert np.allclose(neuron_magnitudes(model)[i], norms, rtol=1e-5)


def test_greedy_drops_what_costs_least_each_time() -> None:
    found = greedy_removals(graph(SPEC), SEQUENCES, 2, silent)
    left = [0, 1, 2, 3]
    for expected in found.order:
        costs = {i: loss(drop_blocks(graph(SPEC), {0, 1, 2, 3} - set(left) | {i}), SEQUENCES) for i in left}
        assert min(costs, key=lambda i: costs[i]) == expected
        left.remove(expected)
    alone = [loss(drop_blocks(graph(SPEC), [i]), SEQUENCES) - loss(graph(SPEC), SEQUENCES) for i in range(4)]
    assert np.allclose(found.scores, alone, atol=1e-6)


def test_every_method_ranks_a_block_that_does_nothing_last() -> None:
    for name, method in methods.METHODS.items():
        model = graph(SPEC)
        for part in (
            "attention.wq",
            "attention.wk",
            "attention.wv",
            "attention.wo",
            *("feed_forward.w" + n for n in "123"),
        ):
            tensor = row_tensor(model.graph.initializers[f"layers.2.{part}.weight"])
            tensor.read = lambda a, b, read=tensor.read: np.zeros_like(read(a, b))
        choice = method.blocks(model, SEQUENCES, 1, silent)
        assert choice.dropped == (2,), name
        assert np.argmin(choice.scores) == 2


def test_the_best_neurons_are_ascending_and_the_first_of_equals() -> None:
    scores = np.array([[1.0, 3.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    assert [kept.tolist() for kept in methods.best_neurons(scores, 2)] == [[1, 3], [0, 1]]


def test_importance_of_a_quantized_graph_can_be_measured() -> None:
    scores = measure(apply_recipe(graph(SPEC), PORTABLE_RECIPES["int8"]), SEQUENCES, silent)
    assert np.allclose(scores.influence, measure(graph(SPEC), SEQUENCES, silent).influence, atol=0.02)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GraphError, match="unknown importance") as caught:
        methods.get("taylor")
    assert caught.value.expected == "block-influence, perplexity, magnitude"


def test_one_block_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not anybody collects garbage, which the command line does rarely."""
    alive: weakref.WeakSet[LoadedBlock] = weakref.WeakSet()
    most = 0
    load = Blockwise.load

    def counted(self: Blockwise, block: Block) -> LoadedBlock:
        nonlocal most
        loaded = load(self, block)
        alive.add(loaded)
        most = max(most, len(alive))
        return loaded

    monkeypatch.setattr(Blockwise, "load", counted)
    gc.disable()
    try:
        measure(graph(SPEC), SEQUENCES, silent)
        perplexity(graph(SPEC), SEQUENCES, silent)
        greedy_removals(graph(SPEC), SEQUENCES, 1, silent)
    finally:
        gc.enable()
    assert most == 1
