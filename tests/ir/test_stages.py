"""Stages: the graph in pieces computes what it computes in one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporter.ir import interpreter
from exporter.ir.stages import stages
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph, token_ids

SPECS = [TinySpec(), TinySpec(tied=True, n_layers=3)]


@pytest.mark.parametrize("recipe", [None, "int4"])
@pytest.mark.parametrize("spec", SPECS, ids=["untied", "tied"])
def test_stages_one_after_the_other_compute_the_logits(spec: TinySpec, recipe: str | None) -> None:
    model, ids = graph(spec, recipe), token_ids(spec.vocab_size)
    inputs = {"tokens": torch.tensor([ids]), "positions": torch.arange(len(ids))[None]}
    inputs |= interpreter.empty_cache(model)
    carried: dict = {}
    for stage in stages(model):
        values = {v: inputs[str(v.name)] for v in model.graph.inputs} | {v: carried[v] for v in stage.entry}
        outputs = set(model.graph.outputs)
        interpreter.evaluate(stage.nodes, values, {*stage.exit, *outputs})
        carried = {v: values[v] for v in (*stage.exit, *outputs) if v in values}
    found = next(tensor for value, tensor in carried.items() if value.name == "logits")
    assert np.array_equal(found[0].numpy(), interpreter.logits(model, ids))


@pytest.mark.parametrize("spec", SPECS, ids=["untied", "tied"])
def test_every_node_is_in_one_stage_and_every_stage_has_one_source(spec: TinySpec) -> None:
    model = graph(spec)
    found = stages(model)
    assert [node for stage in found for node in stage.nodes] == list(model.graph)
    assert found[0].source is None
    for stage in found[1:]:
        assert {node.inputs[0] for node in stage.linears} == {stage.source}


def test_a_llama_has_four_stages_a_layer() -> None:
    names = [[node.name for node in stage.linears] for stage in stages(graph(TinySpec(n_layers=1)))]
    attention, feed_forward = "layers.0.attention", "layers.0.feed_forward"
    assert names == [
        [],
        [f"{attention}.wq", f"{attention}.wk", f"{attention}.wv"],
        [f"{attention}.wo"],
        [f"{feed_forward}.w1", f"{feed_forward}.w3"],
        [f"{feed_forward}.w2"],
        ["logits"],
    ]
