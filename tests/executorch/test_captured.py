"""Programs for Core ML and Vulkan: lowered and looked into here, run nowhere here, and said to be so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.parity import Check
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import backends
from exporter.targets.executorch.capabilities import ROWS
from exporter.targets.executorch.captured import decoder
from exporter.targets.executorch.captured import plan as captured_plan
from exporter.targets.executorch.target import EXECUTORCH
from tests.executorch.support import SPEC, Folder
from tests.executorch.support import export as export_portable
from tests.executorch.test_pipeline import artifacts, export
from tests.fixtures.models import write_huggingface
from tests.pipeline.harness import run

MODEL = SPEC.replace(n_layers=1, tied=True)
"""Torch's exporter and the compilers take seconds a layer."""

BACKENDS = {"vulkan": "VulkanBackend", "coreml": "CoreMLBackend"}


def test_every_backend_that_is_lowered_for_is_among_these() -> None:
    captured = {b.name for b in backends.BACKENDS.values() if b.quants and not b.runs_here}
    assert captured == set(BACKENDS)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_is_looked_into_and_never_said_to_pass(
    backend: str, huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    outcome = export(huggingface_folder(MODEL), out, "int4", options=("--backend", backend))
    assert outcome.code == 0, outcome.stderr
    (found,) = artifacts(out).values()
    assert found["requires"]["delegates"] == [BACKENDS[backend]]
    assert found["parity"]["verdict"] == "not run"
    assert {check["name"] for check in found["parity"]["checks"]} >= {
        "capture", "range", "delegates", "methods", "weights", "vocabulary",
    }  # fmt: skip
    assert all(check["passed"] for check in found["parity"]["checks"])
    assert found["parity"]["reason"] in (out / "README.md").read_text()

    # Another look finds the same, and no proof.
    again = run("verify", out, "--format", "json")
    assert again.code == 0, again.stderr
    assert [a["parity"]["verdict"] for a in again.json["artifacts"]] == ["not run"]

    files = [out / file["path"] for file in found["files"]]
    # A plan of another model with another context: what is in the file is not what the plan says.
    other = MODEL.replace(seed=MODEL.seed + 1, max_seq_len=MODEL.max_seq_len * 2)
    plan = planned(write_huggingface(tmp_path / "other", other), backend)
    assert failed(plan.inspect(files)) == {"methods", "weights"}
    # Wrong arithmetic in the graph that is captured; and a program that the backend has no part in, silently.
    rotated = decoder._rotated
    monkeypatch.setattr(decoder, "_rotated", lambda x, cos, sin: rotated(x, cos, -sin))
    monkeypatch.setattr(captured_plan, "MAX_HALF", 1e-3)  # and activations beyond what float16 holds
    fallen = export_portable(huggingface_folder(MODEL), out, "f32-portable")
    assert failed(planned(huggingface_folder(MODEL), backend).inspect([fallen.path])) >= {
        "capture", "range", "delegates", "weights",
    }  # fmt: skip


def planned(model: Path, backend: str) -> Any:
    return EXECUTORCH.plan(open_source(str(model), SourceOptions()).subject(), f"int4-{backend}", Options())


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_backend_cannot_hold_is_refused_before_anything_is_written(
    backend: str, huggingface_folder: Folder, tmp_path: Path
) -> None:
    options = ("--backend", backend, "--split-weights")
    outcome = export(huggingface_folder(MODEL), tmp_path / "out", "int4", options=options)
    assert outcome.code == 2
    assert f"the backend {backend} keeps weights where it wants them" in outcome.stderr
    rows = {row for rows in ROWS.values() for row in rows} - set(ROWS[backend])
    outcome = export(huggingface_folder(MODEL), tmp_path / "out", min(rows), options=("--backend", backend))
    assert outcome.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_are_said_to_be_estimates(backend: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    options = ("--backend", backend, "--dry-run", "--format", "json")
    outcome = export(huggingface_folder(MODEL), tmp_path / "out", "int4", options=options)
    assert [file["exact"] for a in outcome.json["artifacts"] for file in a["files"]] == [False]
