"""The repository around the variants: it belongs to the folder, and says what the folder holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.targets.onnx import weights
from tests.fixtures.models import TinySpec
from tests.onnx.support import SPEC
from tests.pipeline.harness import Outcome, manifest, run, sha256, shared_files, snapshot

Folder = Callable[[TinySpec], Path]


@pytest.fixture
def model(huggingface_folder: Folder) -> Path:
    return huggingface_folder(SPEC)


def export(model: Path, out: Path, *quants: str, check: bool = False, options: tuple[object, ...] = ()) -> Outcome:
    chosen = [part for quant in quants for part in ("--quant", quant)]
    verify = "--verify" if check else "--no-verify"
    return run("export", model, "--target", "onnx", *chosen, "--out", out, verify, *options)


def defaults(out: Path) -> tuple[str, str, str]:
    """What Transformers.js loads where a page names nothing, what in WebAssembly, and what onnxruntime-genai loads."""
    js: dict[str, Any] = json.loads((out / "onnx/config.json").read_text())["transformers.js_config"]
    genai = json.loads((out / "onnx/genai_config.json").read_text())
    return js["dtype"], js["device_config"]["wasm"]["dtype"], genai["model"]["decoder"]["filename"]


def test_the_manifest_has_their_hashes(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "int4")
    shared = shared_files(tmp_path, "onnx")
    beside = {f"onnx/{p.name}" for p in (tmp_path / "onnx").iterdir() if p.is_file()}
    assert shared.keys() == beside
    for path, entry in shared.items():
        found = tmp_path / path
        assert (entry["target"], entry["bytes"], entry["sha256"]) == ("onnx", found.stat().st_size, sha256(found))


def test_a_second_export_adds_to_the_folder(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "f32")
    assert defaults(tmp_path) == ("fp32", "fp32", "onnx/model.onnx")
    assert export(model, tmp_path, "int4").code == 0
    assert defaults(tmp_path) == ("q4", "q4", "onnx/model_q4.onnx")
    assert export(model, tmp_path, "q8").code == 0
    assert defaults(tmp_path) == ("q4", "q8", "onnx/model_q4.onnx")
    assert [a["quant"] for a in manifest(tmp_path)["artifacts"]] == ["f32", "int4", "q8"]


def test_another_target_leaves_them_alone(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "int4")
    before = snapshot(tmp_path / "onnx")
    assert run("export", model, "--target", "gguf", "--quant", "int4", "--out", tmp_path, "--no-verify").code == 0
    assert snapshot(tmp_path / "onnx") == before
    assert {file["target"] for file in manifest(tmp_path)["shared_files"]} == {"gguf", "onnx", "report"}


def test_two_names_of_one_file_are_one_artifact(model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path, "q4", "int4", "FP16").code == 0
    assert [a["quant"] for a in manifest(tmp_path)["artifacts"]] == ["f16", "int4"]


def wrong_4_bits(patch: pytest.MonkeyPatch) -> None:
    pack = weights.PACK[4]
    patch.setitem(weights.PACK, 4, lambda ints: pack(ints) << 4 | pack(ints) >> 4)


def test_a_rejected_variant_is_no_default(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_4_bits(monkeypatch)
    assert export(model, tmp_path, "int4", "f32", check=True).code == 3
    assert defaults(tmp_path) == ("fp32", "fp32", "onnx/model.onnx")
    assert sorted(p.name for p in (tmp_path / ".rejected").iterdir()) == ["model_q4.onnx", "model_q4.onnx_data"]


def test_nothing_is_left_around_no_variant(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_4_bits(monkeypatch)
    assert export(model, tmp_path, "int4", check=True).code == 3
    assert not [p for p in (tmp_path / "onnx").rglob("*") if p.is_file()]
    assert shared_files(tmp_path, "onnx") == {}


def test_verify_notices_a_changed_one(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "f32")
    assert run("verify", tmp_path).code == 0
    path = tmp_path / "onnx/generation_config.json"
    path.write_text(path.read_text().replace("eos", "EOS"))
    refused = run("verify", tmp_path)
    assert refused.code == 2
    assert "generation_config.json is not the file that was exported" in refused.error["error"]


def test_somebody_elses_file_is_not_replaced_unasked(model: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/config.json").write_text("{}")
    refused = export(model, tmp_path, "f32")
    assert refused.code == 2
    assert "config.json exists already" in refused.error["error"]
    assert snapshot(tmp_path).keys() == {"onnx", "onnx/config.json"}
    assert export(model, tmp_path, "f32", options=("--force",)).code == 0


def test_the_model_card_shows_how_to_load_each_variant(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path, "int4", "q8")
    card = (tmp_path / "README.md").read_text()
    assert card.count('import { env, pipeline } from "@huggingface/transformers";') == 1
    assert '{ dtype: "q4" }' in card
    assert '{ dtype: "q8" }' in card
    assert "8-bit variants round the weights only" in card
