"""``exporter diff``: equal builds are equal, what changed is named, and gates stop a build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import MANIFEST
from tests.fixtures.models import META_SPEC, TinySpec, write_huggingface
from tests.pipeline.harness import export, run, write_poked

Folder = Callable[[TinySpec], Path]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    model = write_huggingface(folder / "tiny", META_SPEC)
    assert export(model, folder / "out", "q8_0", "f32").code == 0
    return folder / "out"


def edited(folder: Path, to: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an export folder with another manifest."""
    shutil.copytree(folder, to)
    document = json.loads((to / MANIFEST).read_text())
    edit(document)
    (to / MANIFEST).write_text(json.dumps(document))
    return to


def gates(folder: Path, **limits: str) -> Path:
    path = folder / "build.yaml"
    path.write_text(json.dumps({"schema": 1, "models": {"m": "m"}, "artifacts": {"gguf": ["q8_0"]}, "gates": limits}))
    return path


def test_a_build_is_equal_to_itself(old: Path, tmp_path: Path) -> None:
    outcome = run(
        "diff", old, old, "--gates", gates(tmp_path, size="0%", kl="0%", top1="0%", tensors="0%"), "--format", "json"
    )
    assert outcome.code == 0, outcome.stderr
    assert {a["name"]: a["status"] for a in outcome.json["artifacts"]} == {"gguf f32": "same", "gguf q8_0": "same"}


def test_a_changed_weight_is_found_in_its_tensor(old: Path, tmp_path: Path) -> None:
    model = write_poked(tmp_path / "tiny", "layers.1.feed_forward.w2.weight", (3, 5), 0.25)
    assert export(model, tmp_path / "out", "q8_0", "f32").code == 0
    outcome = run("diff", old, tmp_path / "out", "--format", "json")
    assert outcome.code == 0, outcome.stderr
    changed = {a["name"]: a for a in outcome.json["artifacts"]}
    assert changed["gguf f32"]["tensors"] == ["layers.1.feed_forward.w2.weight"]
    assert changed["gguf f32"]["components"] == {"feed_forward": 1}
    assert changed["gguf q8_0"]["components"].keys() == {"feed_forward"}
    refused = run("diff", old, tmp_path / "out", "--gates", gates(tmp_path, tensors="0%"))
    assert refused.code == 1
    assert "tensors changed by" in refused.error["found"]
    assert run("diff", old, tmp_path / "out", "--gates", gates(tmp_path, tensors="1%")).code == 0


def test_an_artifact_that_is_gone_stops_the_build(old: Path, tmp_path: Path) -> None:
    new = edited(old, tmp_path / "new", lambda d: d["artifacts"].pop(0))
    outcome = run("diff", old, new, "--gates", gates(tmp_path))
    assert outcome.code == 1
    assert "it is gone" in outcome.error["found"]
    assert run("diff", new, old, "--gates", gates(tmp_path)).code == 0  # one more is no regression


@pytest.mark.parametrize(
    ("before", "after", "limit", "code"),
    [
        ({"mean_kl": 0.1, "top1": 0.9}, {"mean_kl": 0.12, "top1": 0.9}, {"kl": "10%"}, 1),
        ({"mean_kl": 0.1, "top1": 0.9}, {"mean_kl": 0.12, "top1": 0.9}, {"kl": "25%"}, 0),
        ({"mean_kl": 0.1, "top1": 0.9}, {"mean_kl": 0.05, "top1": 0.95}, {"kl": "0%", "top1": "0%"}, 0),
        ({"mean_kl": 0.1, "top1": 0.9}, {"mean_kl": 0.1, "top1": 0.85}, {"top1": "1%"}, 1),
        ({"mean_kl": 0.1, "top1": 0.9}, {"mean_kl": None, "top1": None}, {"kl": "10%"}, 1),
    ],
)
def test_quality_is_compared(
    before: dict[str, Any], after: dict[str, Any], limit: dict[str, str], code: int, old: Path, tmp_path: Path
) -> None:
    def judged(numbers: dict[str, Any], **other: str) -> Callable[[dict[str, Any]], None]:
        def edit(document: dict[str, Any]) -> None:
            for artifact in document["artifacts"]:
                artifact["parity"] = {"verdict": "pass", "quality": numbers}
                artifact["files"] = [file | other for file in artifact["files"]]

        return edit

    first = edited(old, tmp_path / "first", judged(before))
    second = edited(old, tmp_path / "second", judged(after, sha256="another"))
    assert run("diff", first, second, "--gates", gates(tmp_path, **limit)).code == code


def test_a_folder_that_is_no_export(old: Path, tmp_path: Path) -> None:
    assert "has no manifest.json" in run("diff", old, tmp_path).error["error"]
