"""``--rotate``: artifacts of the same function in another basis, on every target, proved again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir import passes

from exporter import targets
from exporter.ir.passes import VerifiedPass
from exporter.quant.equalize import Equalize
from exporter.quant.rotate import Rotate
from exporter.tensors import from_array
from tests.fixtures.models import TinySpec, write_huggingface
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import export, manifest, run

pytestmark = needs_llama_cpp

SPEC = TinySpec(tied=True, head_dim=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("source") / "tiny", SPEC)


def checks(out: Path) -> dict[str, dict[str, bool]]:
    """Quantization -> check -> whether it passed."""
    return {a["quant"]: {c["name"]: c["passed"] for c in a["parity"]["checks"]} for a in manifest(out)["artifacts"]}


@pytest.mark.slow
def test_a_rotated_artifact_passes_and_is_verified_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = export(source, out, "f32", "int4", check=True, options=("--rotate",))
    assert outcome.code == 0, outcome.stderr
    assert manifest(out)["source"]["options"]["rotate"] is True
    assert all(found["same function"] for found in checks(out).values())
    (f32,) = (a for a in manifest(out)["artifacts"] if a["quant"] == "f32")
    assert f32["parity"]["quality"]["mean_kl"] < 1e-6
    # The head is a matrix of its own now, and the file says so.
    found = targets.get("gguf").read_back([out / f32["files"][0]["path"]])
    assert not found.config.tied_embeddings
    assert not np.array_equal(*(found.weights[n].rows_f32(0, 8) for n in ("tok_embeddings.weight", "output.weight")))
    assert run("verify", out).code == 0


def test_calibration_chooses_integers_in_the_rotated_basis(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = ("--rotate", "--calibrate", "builtin", "--calibration-tokens", 2048)
    assert export(source, out, "int4", check=True, options=options).code == 0
    assert checks(out)["int4"]["same function"]
    # Without the rotation the file is another model's.
    (path,) = (out / "calibration").iterdir()
    outcome = export(source, tmp_path / "other", "int4", options=("--calibrate", path))
    assert outcome.code == 2
    assert "is the calibration of another model" in outcome.error["error"]


def test_a_rotation_that_changes_the_function_is_found_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lopsided(VerifiedPass):
        """Rotates, and then forgets a norm's gain."""

        def call(self, model: ir.Model) -> passes.PassResult:
            result = Rotate()(model)
            weight = model.graph.initializers["layers.0.attention_norm.weight"]
            weight.const_value = from_array("halved", np.full(SPEC.dim, 0.5, np.float32))
            return result

    monkeypatch.setattr("exporter.source.Rotate", Lopsided)
    out = tmp_path / "out"
    assert export(source, out, "f32", check=True, options=("--rotate",)).code == 3
    assert not checks(out)["f32"]["same function"]


def test_it_is_the_rewritten_activations_that_must_fit_into_float16(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enormous(VerifiedPass):
        """The same function, but that one activation is a million times as large."""

        def call(self, model: ir.Model) -> passes.PassResult:
            return Equalize({"layers.0.attention_norm": np.full(SPEC.dim, 1e-6, np.float32)})(model)

    monkeypatch.setattr("exporter.source.Rotate", Enormous)
    out = tmp_path / "out"
    assert run("export", source, "--target", "onnx", "--quant", "f16", "--rotate", "--out", out).code == 3
    assert checks(out)["f16"]["same function"]
    assert not checks(out)["f16"]["range"]


def test_an_importance_matrix_does_not_know_the_rotated_channels(source: Path, tmp_path: Path) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    options = ("--rotate", "--calibrate", tmp_path / "some.gguf")
    outcome = export(source, tmp_path / "out", "int4", options=options)
    assert outcome.code == 2
    assert "in the model's own basis" in outcome.error["error"]
