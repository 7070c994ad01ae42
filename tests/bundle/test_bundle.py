"""Bundles: what is in one, that its bytes depend on nothing else, and that what is wrong with one is said."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import targets
from exporter.artifact import MANIFEST
from exporter.bundle import archive, reading, validation
from exporter.errors import ExporterError
from tests.fixtures.models import TinySpec
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import run, shared_files

SPEC = TinySpec(head_dim=16, max_seq_len=256)
Folder = Callable[[TinySpec], Path]
Spoil = Callable[[dict[str, Any], Path], None]

pytestmark = needs_llama_cpp


@pytest.fixture(scope="module")
def exported(huggingface_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GGUF that passed, and its bundle."""
    out = tmp_path_factory.mktemp("exported") / "out"
    done = run("export", huggingface_folder(SPEC), "--target", "gguf", "--quant", "f32", "--out", out, "--bundle")
    assert done.code == 0, done.stderr
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """The bundle as a folder that a test may spoil."""
    with tarfile.open(exported / "bundles/gguf-f32.tar") as tar:
        tar.extractall(tmp_path / "bundle", filter="data")
    return tmp_path / "bundle"


def document(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    return found


def test_it_holds_what_an_app_needs_and_nothing_else(exported: Path, bundle: Path) -> None:
    found = document(bundle)
    stored = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert stored == {"bundle.json", *(file["path"] for file in found["files"])}
    assert stored.issuperset(found["artifact"])
    known = json.loads((exported / MANIFEST).read_text())
    assert {f["path"]: f["sha256"] for f in found["files"]} == {
        f["path"]: f["sha256"] for f in (*known["artifacts"][0]["files"], *shared_files(exported, "gguf").values())
    }
    assert found["context_length"] == SPEC.max_seq_len
    # Of llama.cpp, an app knows the build that it links and not the Python package around it.
    assert found["runtime"] == {"versions": targets.get("gguf").packages, "packages": targets.get("gguf").packages}
    assert len(found["golden"]) == 3
    assert all(golden["prompt_ids"] and golden["answer_ids"] for golden in found["golden"])
    assert not set(found["stop_ids"]) & {i for golden in found["golden"] for i in golden["answer_ids"]}


def test_the_schema_in_the_documents_accepts_it(bundle: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs/bundle.schema.json").read_text())
    jsonschema.validate(document(bundle), schema)
    assert set(schema["required"]) == set(document(bundle)) == set(validation.FIELDS)


def test_the_same_content_is_the_same_bytes(exported: Path, huggingface_folder: Folder, tmp_path: Path) -> None:
    """Made again, elsewhere, from a copy of the model with other times."""
    model = tmp_path / "copy of the model"
    shutil.copytree(huggingface_folder(SPEC), model, copy_function=shutil.copyfile)
    name = model.with_name(huggingface_folder(SPEC).name)
    model.rename(name)
    done = run("export", name, "--target", "gguf", "--quant", "f32", "--out", tmp_path / "again", "--bundle")
    assert done.code == 0, done.stderr
    assert (tmp_path / "again/bundles/gguf-f32.tar").read_bytes() == (exported / "bundles/gguf-f32.tar").read_bytes()


def test_entries_have_no_owner_and_no_time(exported: Path) -> None:
    with tarfile.open(exported / "bundles/gguf-f32.tar") as tar:
        entries = tar.getmembers()
    assert entries[0].name == "bundle.json"
    assert [e.name for e in entries[1:]] == sorted(e.name for e in entries[1:])
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_a_bundle_is_verified(kind: str, exported: Path, bundle: Path) -> None:
    outcome = run("verify", exported / "bundles/gguf-f32.tar" if kind == "tar" else bundle, "--format", "json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["golden_answers"] == 3


def test_a_folder_instead_of_an_archive(exported: Path, bundle: Path) -> None:
    done = run("bundle", exported, "--as-folder", "--format", "json")
    assert done.code == 0, done.stderr
    made = Path(done.json["bundles"][0]["path"])
    assert document(made) == document(bundle)
    assert reading.verify(made, made, lambda title: None)


def test_a_bundle_that_exists_is_not_replaced_unasked(exported: Path) -> None:
    outcome = run("bundle", exported)
    assert outcome.code == 2
    assert "exists already" in outcome.error["error"]
    assert run("bundle", exported, "--force").code == 0


def test_an_artifact_that_changed_since_is_not_bundled(exported: Path, tmp_path: Path) -> None:
    out = shutil.copytree(exported, tmp_path / "out", ignore=shutil.ignore_patterns("bundles"))
    file = next(out.glob("gguf/*.gguf"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    outcome = run("bundle", out)
    assert outcome.code == 2
    assert "not the file that was exported" in outcome.error["error"]
    assert not (out / "bundles").exists()


def test_nothing_unproved_is_bundled(huggingface_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("export", huggingface_folder(SPEC), "--target", "gguf", "--quant", "f32", "--out", out, "--no-verify")
    outcome = run("bundle", out)
    assert "no artifact that passed" in outcome.error["error"]


# --- What can be wrong ----------------------------------------------------------------------------------------------


def change(**fields: Any) -> Spoil:
    def spoil(found: dict[str, Any], bundle: Path) -> None:
        (bundle / "bundle.json").write_text(json.dumps(found | fields))

    return spoil


def without(field: str) -> Spoil:
    def spoil(found: dict[str, Any], bundle: Path) -> None:
        (bundle / "bundle.json").write_text(json.dumps({k: v for k, v in found.items() if k != field}))

    return spoil


def no_document(found: dict[str, Any], bundle: Path) -> None:
    (bundle / "bundle.json").unlink()


def no_json(found: dict[str, Any], bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{")


def no_file(found: dict[str, Any], bundle: Path) -> None:
    (bundle / found["artifact"][0]).unlink()


def other_bytes(found: dict[str, Any], bundle: Path) -> None:
    path = bundle / found["artifact"][0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def other_answer(found: dict[str, Any], bundle: Path) -> None:
    found["golden"][1]["answer_ids"][2] += 1
    change()(found, bundle)


def other_release(found: dict[str, Any], bundle: Path) -> None:
    change(runtime={"versions": {"llama.cpp": "b1"}, "packages": {}})(found, bundle)


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no document": (no_document, "bundle.json is missing"),
    "no JSON": (no_json, "bundle.json is not valid: it is not JSON"),
    "an older schema": (change(schema=0), "bundle schema 0 is not supported, this reader knows schema 1"),
    "a newer schema": (change(schema=2), "bundle schema 2 is not supported"),
    "a field too few": (without("stop_ids"), "bundle.json is not valid: stop_ids is missing"),
    "a field of another type": (change(context_length="256"), "context_length has another type"),
    "a path out of the bundle": (
        change(files=[{"path": "../x", "bytes": 1, "sha256": ""}]), "files has an entry that is none",
    ),
    "an artifact that is no file": (change(artifact=["model.gguf"]), "artifact is not among the files"),
    "no golden answer": (change(golden=[]), "the bundle has no golden answers"),
    "a file too few": (no_file, "is missing from the bundle"),
    "a wrong hash": (other_bytes, "is not the file that was bundled"),
    "a runtime of another version": (other_release, "the bundle needs llama.cpp b1, here is"),
    "another answer": (other_answer, "golden answer 2 differs"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_is_said(name: str, bundle: Path, tmp_path: Path) -> None:
    spoil, message = SPOILT[name]
    spoil(document(bundle), bundle)
    with pytest.raises(ExporterError) as refusal:
        reading.verify(bundle, tmp_path, lambda title: None)
    assert message in refusal.value.message


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"not an archive")
    outcome = run("verify", path)
    assert outcome.code == 2
    assert "the archive cannot be read" in outcome.error["error"]


def test_an_archive_that_reaches_outside_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    archive.write_tar(path, "{}", bundle, [])
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"))
    outcome = run("verify", path)
    assert outcome.code == 2
    assert not (tmp_path.parent / "outside").exists()
