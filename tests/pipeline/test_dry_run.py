"""``--dry-run`` predicts what the export then does, and touches nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.targets.gguf.capabilities import QUANTS
from tests.fixtures.models import META_SPEC, write_gguf, write_huggingface, write_meta
from tests.pipeline.harness import Outcome, export, manifest, process, snapshot

MEMORY_TOLERANCE = 0.5
"""Of the predicted peak: a full-precision export needs none of the 40 MiB that the prediction grants the kernels."""


def sizes(outcome: Outcome) -> dict[str, int]:
    return {file["path"]: file["bytes"] for artifact in outcome.json["artifacts"] for file in artifact["files"]}


@pytest.mark.parametrize("split", [(), ("--split-max-size", "80K")], ids=["whole", "split"])
def test_every_predicted_size_is_the_real_one_to_the_byte(model: Path, split: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--format", "json", *split)
    predicted = export(model, out, *QUANTS, options=("--dry-run", *options))
    assert predicted.code == 0
    assert not out.exists()
    made = export(model, out, *QUANTS, options=options)
    assert sizes(predicted) == sizes(made)
    assert sizes(made) == {str(p.relative_to(out)): p.stat().st_size for p in out.rglob("*.gguf")}
    for before, after in zip(predicted.json["artifacts"], made.json["artifacts"], strict=True):
        assert before["bits_per_weight"] == after["bits_per_weight"]


@pytest.mark.parametrize("name", ["meta", "gguf", "tied"])
def test_other_sources_are_predicted_as_well(name: str, tmp_path: Path) -> None:
    source = {
        "meta": lambda: write_meta(tmp_path / "tiny", model_parallel=8),
        "gguf": lambda: write_gguf(tmp_path / "tiny.gguf", META_SPEC, "Q8_0"),
        "tied": lambda: write_huggingface(tmp_path / "tiny", META_SPEC.replace(tied=True)),
    }[name]()
    out = tmp_path / "out"
    predicted = export(source, out, *QUANTS, options=("--dry-run", "--format", "json"))
    export(source, out, *QUANTS)
    assert sizes(predicted) == {str(p.relative_to(out)): p.stat().st_size for p in out.rglob("*.gguf")}


def test_people_see_files_sizes_and_memory(model: Path, tmp_path: Path) -> None:
    outcome = export(model, tmp_path / "out", "q4_k_m", "int4", options=("--dry-run",))
    assert outcome.code == 0
    export(model, tmp_path / "out", "q4_k_m", "int4")
    for path in (tmp_path / "out").rglob("*.gguf"):
        (line,) = (line for line in outcome.stdout.splitlines() if path.name in line)
        assert str(path.stat().st_size) in line.split()
        assert re.search(r"\d+ MiB", line)


def test_nothing_is_written_anywhere(model: Path, tmp_path: Path) -> None:
    before = snapshot(model), snapshot(tmp_path)
    assert export(model, tmp_path / "a" / "b" / "out", "int4", options=("--dry-run",)).code == 0
    assert (snapshot(model), snapshot(tmp_path)) == before


def test_an_existing_artifact_does_not_hinder_a_prediction(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", "int4")
    assert export(model, tmp_path / "out", "int4", options=("--dry-run",)).code == 0


@pytest.mark.parametrize("quants", [("f32",), ("q4_k_m", "int4")], ids=["copy", "encode"])
def test_predicted_memory_is_about_what_is_needed(model: Path, quants: tuple[str, ...], tmp_path: Path) -> None:
    chosen = [part for quant in quants for part in ("--quant", quant)]
    arguments = ("export", model, "--target", "gguf", *chosen, "--out", tmp_path / "out", "--jobs", 2, "--no-verify")
    predicted = process(*arguments, "--dry-run", "--format", "json").json["artifacts"]
    for _ in range(2):  # the first may compile the kernels, which happens once per installation
        assert process(*arguments, "--force").code == 0
    needed = manifest(tmp_path / "out")["artifacts"]
    most = max(artifact["peak_memory_bytes"] for artifact in needed)
    bound = max(artifact["peak_memory_bytes"] for artifact in predicted)
    assert (1 - MEMORY_TOLERANCE) * bound <= most <= bound
