"""What a browser cannot hold or run is said before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from exporter.errors import TargetError
from exporter.ir.build import build
from exporter.prune_guard.vocabulary import narrow_head
from exporter.quant.apply import apply_recipe
from exporter.targets.onnx import browser
from exporter.targets.onnx.capabilities import QUANTS
from exporter.targets.onnx.lower import Lowered, lower
from exporter.tensors import Array, RowTensor
from tests.fixtures.models import TinySpec
from tests.fixtures.sparse import LLAMA_70B, shapes
from tests.ir.graphs import graph
from tests.onnx.support import SPEC
from tests.pipeline.harness import Outcome, run

Folder = Callable[[TinySpec], Path]


def lowered(quant: str, spec: TinySpec = SPEC) -> Lowered:
    row = QUANTS[quant]
    return lower(apply_recipe(graph(spec), row.recipe), row.activations)


def stored(made: Lowered) -> int:
    return sum(weight.nbytes for weight in made.weights)


def test_the_heap_holds_the_weights_and_what_kernels_unpack() -> None:
    head = 4 * SPEC.vocab_size * SPEC.dim
    tied = SPEC.replace(tied=True)
    assert browser.heap_bytes(lowered("int4")) == stored(lowered("int4")) + head
    assert browser.heap_bytes(lowered("f32", tied)) == stored(lowered("f32", tied)) + head
    for quant in ("f32", "q8", "f16", "q4f16"):
        assert browser.heap_bytes(lowered(quant)) == stored(lowered(quant))


def export(model: Path, out: Path, quant: str, *options: object) -> Outcome:
    return run("export", model, "--target", "onnx", "--quant", quant, "--out", out, "--no-verify", *options)


def test_a_model_that_is_too_large_is_refused_with_what_fits(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = huggingface_folder(SPEC.replace(max_seq_len=256)), tmp_path / "out"
    monkeypatch.setattr(browser, "HEAP_BYTES", browser.heap_bytes(lowered("f32", SPEC.replace(max_seq_len=256))) - 1)
    refused = export(model, out, "fp32")
    assert refused.code == 2
    assert refused.error["error"] == "model.onnx is too large for a browser"
    assert "--quant int4 fits" in refused.error["hint"]
    assert not out.exists()
    assert export(model, out, "fp32", "--no-browser").code == 0


def test_a_model_of_which_nothing_fits_is_sent_elsewhere(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "HEAP_BYTES", 1000)
    refused = export(huggingface_folder(SPEC), tmp_path / "out", "int4", "--dry-run")
    assert refused.code == 2
    assert "--target gguf" in refused.error["hint"]


@pytest.mark.parametrize(("n_layers", "fits"), [(28, True), (80, False)])
def test_llama_3b_fits_as_q8_and_something_larger_does_not(n_layers: int, fits: bool) -> None:
    """Llama 3.2 3B's shape; no weight is read."""
    config = LLAMA_70B.replace(
        dim=3072, n_layers=n_layers, n_heads=24, head_dim=128, ffn_dim=8192, tied_embeddings=True
    )
    model = build(
        config, {name: holes(name, shape) for name, shape in shapes(config).items() if name != "output.weight"}
    )
    row = QUANTS["q8"]
    made = lower(apply_recipe(model, row.recipe), row.activations)
    assert (browser.heap_bytes(made) <= browser.HEAP_BYTES) == fits


def holes(name: str, shape: tuple[int, ...]) -> RowTensor:
    def unread(start: int, stop: int) -> Array:
        raise AssertionError(f"{name} was read")

    return RowTensor(name, ir.DataType.BFLOAT16, shape, unread)


def test_an_operator_that_browsers_lack_is_named() -> None:
    made = lowered("int4")
    node = ir.node("GatherBlockQuantized", [made.model.graph.inputs[0]], domain="com.microsoft", name="embedding")
    made.model.graph.append(node)
    with pytest.raises(TargetError, match="node embedding has an operator that browsers lack") as refusal:
        browser.require_operators(made)
    assert refusal.value.found == "com.microsoft::GatherBlockQuantized"


def test_the_operators_are_those_that_the_variants_use() -> None:
    """Each is run in Chromium by ``tests/javascript``: every variant of a tied model, and a head with some tokens."""
    narrowed = lower(narrow_head(graph(SPEC), [1, 2, 3]), QUANTS["f32"].activations)
    used = {(n.domain, n.op_type) for n in narrowed.model.graph} | {
        (n.domain, n.op_type)
        for quant in QUANTS
        for tied in (False, True)
        for n in lowered(quant, SPEC.replace(tied=tied)).model.graph
    }
    assert used == browser.OPERATORS
