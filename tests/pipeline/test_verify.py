"""``exporter verify``: the proof again, from nothing but the folder and the source it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from gguf import GGUFReader

from tests.fixtures.models import write_huggingface
from tests.pipeline.conftest import SPEC, needs_llama_cpp
from tests.pipeline.harness import export, manifest, run, sha256

pytestmark = needs_llama_cpp


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export nobody checked yet."""
    out = tmp_path_factory.mktemp("exported") / "out"
    assert export(model, out, "int4", "q4_k_m").code == 0
    return out


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def tamper(path: Path) -> None:
    """Flip the lowest bit of a weight, or of a block's scale."""
    (tensor,) = (t for t in GGUFReader(path).tensors if t.name == "blk.1.ffn_up.weight")
    data = bytearray(path.read_bytes())
    data[tensor.data_offset] ^= 1
    path.write_bytes(data)


def test_a_good_folder_passes(exported: Path) -> None:
    outcome = run("verify", exported)
    assert outcome.code == 0, outcome.stderr
    lines = [line.split() for line in outcome.stdout.splitlines() if ".gguf" in line]
    assert [(line[0], line[-1]) for line in lines] == [
        ("gguf/tiny-INT4.gguf", "pass"),
        ("gguf/tiny-Q4_K_M.gguf", "pass"),
    ]


def test_json_is_one_document(exported: Path) -> None:
    (first, second) = run("verify", exported, "--format", "json", "--quiet").json["artifacts"]
    assert (first["quant"], first["parity"]["verdict"]) == ("int4", "pass")
    assert second["files"] == manifest(exported)["artifacts"][1]["files"]


def test_verifying_changes_nothing(folder: Path) -> None:
    before = {p: sha256(p) for p in folder.rglob("*") if p.is_file()}
    run("verify", folder)
    assert {p: sha256(p) for p in folder.rglob("*") if p.is_file()} == before


def test_a_changed_byte_is_named_before_anything_runs(folder: Path) -> None:
    tamper(folder / "gguf" / "tiny-Q4_K_M.gguf")
    outcome = run("verify", folder)
    assert outcome.code == 2
    assert "tiny-Q4_K_M.gguf is not the file that was exported" in outcome.error["error"]
    assert outcome.error["expected"].startswith("sha256 ")
    assert outcome.error["found"] == f"sha256 {sha256(folder / 'gguf' / 'tiny-Q4_K_M.gguf')}"
    assert outcome.error["hint"]


def test_a_missing_artifact_is_named(folder: Path) -> None:
    (folder / "gguf" / "tiny-INT4.gguf").unlink()
    outcome = run("verify", folder)
    assert outcome.code == 2
    assert "tiny-INT4.gguf is missing" in outcome.error["error"]


@pytest.mark.parametrize("quant", ["INT4", "Q4_K_M"])
def test_a_forged_hash_does_not_help(folder: Path, quant: str) -> None:
    path = folder / "gguf" / f"tiny-{quant}.gguf"
    tamper(path)
    document = manifest(folder)
    for artifact in document["artifacts"]:
        for file in artifact["files"]:
            file["sha256"] = sha256(folder / file["path"])
    (folder / "manifest.json").write_text(json.dumps(document))
    outcome = run("verify", folder)
    assert outcome.code == 3
    assert f"gguf {quant.lower()}: weights: FAILED" in outcome.stderr
    assert f"verdict FAIL: gguf {quant.lower()}" in outcome.error["error"]
    verdicts = {line.split()[0]: line.split()[-1] for line in outcome.stdout.splitlines() if ".gguf" in line}
    assert sorted(verdicts.values()) == ["fail", "pass"]
    assert path.exists(), "verify judges and leaves the moving to people"


def test_a_source_that_moved_is_asked_for_and_taken(tmp_path: Path) -> None:
    source = write_huggingface(tmp_path / "here", SPEC)
    export(source, tmp_path / "out", "int4")
    moved = source.rename(tmp_path / "there")
    outcome = run("verify", tmp_path / "out")
    assert outcome.code == 2
    assert "--model" in outcome.error["hint"]
    assert run("verify", tmp_path / "out", "--model", moved).code == 0


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(SPEC.replace(n_layers=3), id="another shape"),
        pytest.param(SPEC.replace(seed=1), id="a fine-tune of the same size"),
    ],
)
def test_another_model_is_not_the_source(exported: Path, other: object, tmp_path: Path) -> None:
    outcome = run("verify", exported, "--model", write_huggingface(tmp_path / "other", other, shards=3))
    assert outcome.code == 2
    assert "is not the source of these artifacts" in outcome.error["error"]
    assert outcome.error["expected"] != outcome.error["found"]
    assert outcome.error["hint"]


def test_a_source_in_fewer_files_is_not_the_source(exported: Path, tmp_path: Path) -> None:
    outcome = run("verify", exported, "--model", write_huggingface(tmp_path / "whole", SPEC))
    assert outcome.code == 2
    assert "is not the source of these artifacts" in outcome.error["error"]


def test_options_that_changed_the_model_are_remembered(model: Path, tmp_path: Path) -> None:
    options = ("--max-seq-len", 4096, "--rope-scale-factor", 32)
    assert export(model, tmp_path / "out", "f32", options=options).code == 0
    assert run("verify", tmp_path / "out").code == 0
    document = manifest(tmp_path / "out")
    assert document["source"]["options"] == {"max_seq_len": 4096, "rope_scale_factor": 32.0}
    document["source"]["options"] = {}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(document))
    assert run("verify", tmp_path / "out").code == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no manifest.json"),
        ("{", "is not JSON"),
        ('{"schema": 2}', "has another schema"),
        ("[]", "has another schema"),
        ('{"schema": 1}', "is incomplete"),
        ('{"schema": 1, "source": {}, "artifacts": [{"target": "gguf"}]}', "is incomplete"),
    ],
)
def test_a_folder_without_a_sound_manifest_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    outcome = run("verify", tmp_path)
    assert outcome.code == 2
    assert message in outcome.error["error"]


def test_rejected_artifacts_are_not_verified_again(exported: Path, folder: Path) -> None:
    document = manifest(folder)
    document["artifacts"][0]["parity"]["verdict"] = "fail"
    (folder / "manifest.json").write_text(json.dumps(document))
    (entry,) = run("verify", folder, "--format", "json").json["artifacts"]
    assert entry["quant"] == "q4_k_m"
