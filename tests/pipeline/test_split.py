"""``--split-max-size``: parts that llama.cpp finds and loads by their names."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import export, manifest, run, sha256, tensors

LIMIT = 80_000


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    export(model, out, "q8_0")
    return out / "gguf" / "tiny-Q8_0.gguf"


def parts(out: Path) -> list[Path]:
    return sorted((out / "gguf").glob("*.gguf"))


def test_parts_are_named_as_llama_cpp_looks_for_them(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "q8_0", options=("--split-max-size", LIMIT))
    found = parts(tmp_path)
    assert len(found) > 1
    assert [p.name for p in found] == [f"tiny-Q8_0-{i + 1:05d}-of-{len(found):05d}.gguf" for i in range(len(found))]


def test_each_part_knows_its_place(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "q8_0", options=("--split-max-size", LIMIT))
    found = parts(tmp_path)
    n_tensors = 0
    for i, path in enumerate(found):
        reader = gguf.GGUFReader(path)
        assert reader.fields["split.no"].contents() == i
        assert reader.fields["split.count"].contents() == len(found)
        n_tensors += len(reader.tensors)
        assert sum(int(t.n_bytes) for t in reader.tensors) <= LIMIT
    assert gguf.GGUFReader(found[0]).fields["split.tensors.count"].contents() == n_tensors


def test_the_tensors_are_those_of_the_whole_file(model: Path, whole: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "q8_0", options=("--split-max-size", LIMIT))
    joined = {name: tensor for path in parts(tmp_path) for name, tensor in tensors(path).items()}
    assert joined == tensors(whole)


@needs_llama_cpp
def test_llama_cpp_loads_the_parts(model: Path, tmp_path: Path) -> None:
    outcome = export(model, tmp_path, "q8_0", "int4", check=True, options=("--split-max-size", LIMIT))
    assert outcome.code == 0, outcome.stderr
    assert run("verify", tmp_path).code == 0
    for artifact in manifest(tmp_path)["artifacts"]:
        assert len(artifact["files"]) > 1
        for file in artifact["files"]:
            assert file["sha256"] == sha256(tmp_path / file["path"])
    assert re.search(r"tiny-Q8_0-00001-of-0000\d\.gguf \(\+\d\)", outcome.stdout)


@needs_llama_cpp
def test_a_part_that_changed_is_named(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "q8_0", options=("--split-max-size", LIMIT))
    second = parts(tmp_path)[1]
    second.write_bytes(second.read_bytes()[:-1] + b"\xff")
    outcome = run("verify", tmp_path)
    assert outcome.code == 2
    assert second.name in outcome.error["error"]


def test_a_model_below_the_limit_stays_whole(model: Path, whole: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "q8_0", options=("--split-max-size", "1G"))
    assert [p.name for p in parts(tmp_path)] == [whole.name]
    assert sha256(parts(tmp_path)[0]) == sha256(whole)
