"""A student computes what the interpreter does, on the grids what a runtime does; gradients pass through both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exporter import targets
from exporter.errors import GraphError, TargetError
from exporter.ir import interpreter
from exporter.ir.weights import initializers
from exporter.prune_guard.fake_quant import Grid, grids, rounded_input, rounded_weight
from exporter.prune_guard.student import Student, weights_of
from exporter.prune_guard.vocabulary import narrow_head
from exporter.quant.activations import dynamic_int8
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import INT4
from exporter.targets.base import Quant
from exporter.targets.gguf.capabilities import QUANTS as GGUF
from tests.fixtures.models import ADAPTED_SPEC, LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, token_ids
from tests.oracles.xnnpack import rounding
from tests.prune_guard.support import KEPT

IDS = token_ids(TinySpec().vocab_size, 20)
EVERYWHERE = torch.arange(len(IDS))
WIDE = TinySpec(dim=256, ffn_dim=256, head_dim=64, dtype="float32")
"""Divides into groups of 256."""


def logits(student: Student, ids: list[int] = IDS) -> torch.Tensor:
    return student(torch.tensor([ids]), torch.arange(len(ids)))


# --- The function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [TinySpec(), TinySpec(tied=True, rope_scaling=LLAMA3_SCALING), ADAPTED_SPEC],
    ids=["untied", "tied", "adaptors and a Hadamard transform"],
)
def test_a_student_is_the_graph(spec: TinySpec) -> None:
    model = graph(spec)
    assert np.array_equal(logits(Student(model)).detach().numpy(), interpreter.logits(model, IDS))


def test_a_head_with_some_tokens_has_their_logits_alone() -> None:
    model = narrow_head(graph(), KEPT)
    assert np.array_equal(logits(Student(model)).detach().numpy(), interpreter.logits(model, IDS)[:, KEPT])


def test_what_is_behind_a_shorter_sequence_changes_nothing() -> None:
    student = Student(graph())
    batch = torch.tensor([IDS, IDS[:7] + [0] * 13])
    found = student(batch, torch.arange(20, 27))
    assert torch.allclose(found, logits(student)[:7], atol=1e-5)


def test_its_state_holds_every_weight_by_its_name() -> None:
    model = graph(TinySpec(tied=True))
    found, expected = weights_of(Student(model).state_dict()), initializers(model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], rows.rows_f32(0, rows.n_rows)) for name, rows in expected.items())


# --- On the grids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "quant", "spec"),
    [
        ("executorch", "int4-g256-e4g32", WIDE),
        ("executorch", "int8", WIDE),
        ("executorch", "int8w", WIDE),
        ("onnx", "int4", WIDE.replace(tied=True)),
        ("gguf", "int8", WIDE),
    ],
)
def test_it_computes_with_the_numbers_of_the_artifact(target: str, quant: str, spec: TinySpec) -> None:
    """The weights that the export would choose, bit for bit, and activations rounded where the runtime rounds them."""
    row = targets.get(target).quant(quant)
    model = graph(spec)
    found = logits(Student(model, grids(model, row))).detach().numpy()
    rounds = target == "executorch" and quant != "int8w"
    with rounding(lambda name: rounds and name.startswith("layers.")):
        expected = interpreter.logits(apply_recipe(model.clone(), row.recipe), IDS)  # type: ignore[arg-type]
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, interpreter.logits(model, IDS))


def test_another_group_size_is_another_grid() -> None:
    """The negative control of the last test."""
    model = graph(WIDE)
    found = [
        logits(Student(model, grids(model, targets.get("executorch").quant(name))))
        for name in ("int4-g256-e4g32", "int4-g128-e4g32")
    ]
    assert not torch.equal(*found)


def test_blocks_that_only_a_format_knows_are_refused() -> None:
    with pytest.raises(TargetError, match="training cannot round as q4_k_m does"):
        grids(graph(), GGUF["q4_k_m"])


def test_a_quantized_graph_is_no_student() -> None:
    with pytest.raises(GraphError, match="is quantized already"):
        Student(graph(recipe="int4"))


def test_columns_that_do_not_divide_into_groups_are_refused() -> None:
    model = graph()
    student = Student(model, grids(model, targets.get("executorch").quant("int4-g256")))
    with pytest.raises(GraphError, match="cannot be quantized to int4"):
        logits(student)


# --- Gradients ---------------------------------------------------------------------------------------------------


def test_gradients_pass_the_rounding_as_if_it_were_not_there() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 64, requires_grad=True), torch.randn(8, 64, requires_grad=True)
    grid = Grid(INT4, np.ones(64, np.float32), inputs=True)
    F.linear(rounded_input(x), rounded_weight(weight, grid)).square().sum().backward()
    there = [t.detach().requires_grad_() for t in (dynamic_int8(x.detach()), grid.decoded(weight))]
    F.linear(*there).square().sum().backward()
    assert torch.equal(x.grad, there[0].grad)  # type: ignore[arg-type]
    assert torch.equal(weight.grad, there[1].grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("rounds", [False, True], ids=["exact", "on the grid"])
def test_computing_a_block_twice_gives_the_same_gradients(rounds: bool) -> None:
    model = graph(WIDE)
    row: Quant = targets.get("executorch").quant("int4-g256-e4g32")
    found = []
    for keeps in (True, False):
        student = Student(model, grids(model, row) if rounds else None, keeps_activations=keeps)
        logits(student).log_softmax(-1)[:, 0].sum().backward()
        found.append([parameter.grad for parameter in student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))  # type: ignore[arg-type]
    assert all(gradient is not None and gradient.any() for gradient in found[0])
