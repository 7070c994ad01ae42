"""What types cost and which a matrix can have: the losses against real divergences, and every refusal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import AllocationError
from exporter.ir import interpreter
from exporter.ir.weights import row_tensor
from exporter.quant import rounding
from exporter.quant.allocation.fisher import drawn
from exporter.quant.allocation.losses import Losses, measure
from exporter.quant.allocation.types import matrices, resolve
from exporter.quant.apply import apply_recipe
from exporter.quant.calibration import file
from exporter.quant.calibration.file import Calibration
from exporter.quant.calibration.run import Run
from exporter.quant.calibration.use import equalize
from exporter.quant.schemes import HEAD, INT4, INT8, LINEAR, PORTABLE_RECIPES, WeightType, by_name
from exporter.tensors import from_array
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph
from tests.quant.test_calibration import ORIGIN, WINDOWS, silent

SPECS = {"untied": TinySpec(head_dim=32, n_layers=2), "tied": TinySpec(head_dim=32, n_layers=2, tied=True)}


TEXT = np.random.default_rng(1).integers(0, 576, (32, 64))
"""Half of it for derivatives, half for the second moments; other tokens than the divergences are computed on."""


def coarsely(rows: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """What the encoder of some target leaves of rows: integers of 4 bits, whatever is beside them."""
    ints, scales = rounding.get("nearest")(rows, importance, INT4)
    return file.decoded("coarse", ints, scales).rows_f32(0, len(rows))


COARSE = WeightType("coarse", 4.5, 32, rounded=coarsely)
FOUR = WeightType("int4", 4.5, 32, INT4, roles=frozenset({HEAD, LINEAR}))
WIDE = WeightType("int4-g64", 4.25, 64, INT4.in_groups(64))
EIGHT = WeightType("int8", 8.5, 32, INT8)
TYPES = by_name(COARSE, FOUR, WIDE, EIGHT)


@dataclass(frozen=True)
class Measured:
    """An equalised graph, the losses of its matrices, and the logits that it had before."""

    model: ir.Model
    losses: Losses
    exact: list[torch.Tensor]

    def divergence(self, changed: ir.Model) -> float:
        """Of another graph, mean over the windows' tokens."""
        pairs = zip(self.exact, logits(changed), strict=True)
        return float(np.mean([float((p.exp() * (p - q)).sum(-1).mean()) for p, q in pairs]))


def logits(model: ir.Model) -> list[torch.Tensor]:
    return [torch.from_numpy(interpreter.logits(model, window.tolist())).log_softmax(-1) for window in WINDOWS]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    found = {}
    for name, spec in SPECS.items():
        folder = tmp_path_factory.mktemp(name)
        file.join(folder / "energies.safetensors", list(Run(graph(spec), WINDOWS, {}, folder).finish(silent)), ORIGIN)
        model = graph(spec)
        known = equalize(model, Calibration(folder / "energies.safetensors"))
        found[name] = Measured(model, measure(model, known, TEXT, TYPES.values(), silent), logits(graph(spec)))
    return found


# --- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("untied", "layers.0.attention.wk.weight"),
        ("untied", "layers.1.attention.wv.weight"),  # its errors at different tokens do not cancel
        ("untied", "layers.0.feed_forward.w2.weight"),
        ("untied", "output.weight"),
        ("untied", "tok_embeddings.weight"),
        ("tied", "tok_embeddings.weight"),
    ],
)
def test_a_loss_is_the_divergence_that_one_rounded_matrix_causes(
    spec: str, name: str, measured: dict[str, Measured]
) -> None:
    known = measured[spec]
    model = known.model.clone()
    weight = model.graph.initializers[name]
    rows = row_tensor(weight).rows_f32(0, row_tensor(weight).n_rows)
    weight.const_value = from_array(name, coarsely(rows, np.ones(rows.shape[1], np.float32)))
    weight.type = ir.TensorType(ir.DataType.FLOAT)
    assert known.losses[name]["coarse"] == pytest.approx(known.divergence(model), rel=0.2)


def test_the_losses_of_all_matrices_add_up(measured: dict[str, Measured]) -> None:
    known = measured["untied"]
    rounded = apply_recipe(known.model.clone(), PORTABLE_RECIPES["int8"])
    assert sum(losses["int8"] for losses in known.losses.values()) == pytest.approx(known.divergence(rounded), rel=0.2)


def test_every_matrix_has_a_loss_in_every_type_that_its_columns_fill(measured: dict[str, Measured]) -> None:
    known = measured["untied"]
    assert known.losses.keys() == matrices(known.model).keys()
    for name, matrix in matrices(known.model).items():
        assert set(known.losses[name]) == {k.name for k in TYPES.values() if matrix.shape[1] % k.multiple == 0}
    assert set(known.losses["tok_embeddings.weight"]) == set(TYPES), "some other target may look it up as int4"
    assert set(known.losses["layers.0.feed_forward.w2.weight"]) == {"coarse", "int4", "int8"}  # 96 columns


def test_more_bits_cost_less_and_gptq_less_than_plain_rounding(measured: dict[str, Measured]) -> None:
    losses = measured["untied"].losses
    assert all(one["int8"] < 0.05 * one["coarse"] for one in losses.values())
    layers = [one for name, one in losses.items() if name.startswith("layers.")]
    assert sum(one["int4"] for one in layers) < sum(one["coarse"] for one in layers), "on tokens that GPTQ has not seen"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=400), st.integers(1, 64))
def test_drawn_rows_stand_for_all(shares: list[float], n: int) -> None:
    rows, stand_for = drawn(np.array(shares), n)
    assert len(set(rows)) == len(rows) == len(stand_for)
    if sum(shares) > 0:
        assert len(rows) <= max(n, 1) or len(shares) <= n
        assert float((np.array(shares)[rows] * stand_for).sum()) == pytest.approx(sum(shares), rel=1e-4)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "kind", "message", "expected"),
    [
        ("layers.7.attention.wq.weight", "int4", "has no matrix layers.7", "layers.1.attention.wq.weight"),
        ("norm.weight", "int4", "has no matrix norm.weight", None),
        ("output.weight", "q5_k", "cannot be stored as q5_k here", "coarse, int4, int4-g64, int8"),
        ("layers.0.feed_forward.w2.weight", "int4-g64", "96 columns are no multiple of 64", "coarse or int4 or int8"),
        ("tok_embeddings.weight", "int4", "no kernel reads int4 as embedding", "coarse or int4-g64 or int8"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(weight: str, kind: str, message: str, expected: str | None) -> None:
    with pytest.raises(AllocationError) as caught:
        resolve(graph(SPECS["untied"]), "int4", TYPES, {weight: kind})
    assert message in caught.value.message
    assert expected is None or expected in str(caught.value.expected)


def test_a_tied_embedding_is_one_matrix_with_two_roles() -> None:
    found = matrices(graph(SPECS["tied"]))
    assert "output.weight" not in found
    assert found["tok_embeddings.weight"].roles == {"embedding", "head"}
    with pytest.raises(AllocationError, match="no kernel reads int4 as embedding"):
        resolve(graph(SPECS["tied"]), "int4", TYPES, {"tok_embeddings.weight": "int4"})


def test_integers_that_a_checkpoint_has_chosen_are_left_alone() -> None:
    chosen = apply_recipe(graph(SPECS["untied"]), PORTABLE_RECIPES["int4"])
    with pytest.raises(AllocationError, match="has chosen its integers already"):
        resolve(chosen, "int4", TYPES, {"output.weight": "int8"})
