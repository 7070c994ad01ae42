"""Hub ids, against a local stand-in for ``snapshot_download``: nothing here touches the network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from exporter.checkpoint import open_checkpoint
from exporter.checkpoint.hub import UNWANTED, WANTED
from exporter.errors import CheckpointError
from tests.checkpoint.refusals import refusal
from tests.fixtures.models import write_huggingface

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("would download"))


def fake(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)


def test_a_hub_id_is_downloaded_and_keeps_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(write_huggingface(tmp_path / "snapshots" / "0123abcd"))

    fake(monkeypatch, download)
    checkpoint = open_checkpoint(HUB_ID, revision="v1")
    assert (asked["repo_id"], asked["revision"]) == (HUB_ID, "v1")
    assert checkpoint.info.name == "SmolLM2-135M-Instruct"
    assert (checkpoint.info.organization, checkpoint.info.base_model) == ("HuggingFaceTB", HUB_ID)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("tokenizer.model", True),
        ("chat_template.jinja", True),
        ("README.md", True),
        ("original/consolidated.00.pth", False),
        ("original/params.json", False),
        ("consolidated.safetensors", False),
        ("pytorch_model.bin", False),
        ("onnx/model.onnx", False),
    ],
)
def test_only_what_an_export_needs_is_downloaded(file: str, wanted: bool) -> None:
    taken = any(fnmatch(file, pattern) for pattern in WANTED) and not any(fnmatch(file, p) for p in UNWANTED)
    assert taken is wanted


def test_an_existing_folder_is_no_hub_id(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "org" / "name")
    assert open_checkpoint("org/name").info.name == "name"


@pytest.mark.parametrize("error", [RepositoryNotFoundError, GatedRepoError])
def test_a_repository_that_cannot_be_had(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error("401 Client Error\nmore lines", response=Mock())

    fake(monkeypatch, download)
    found = refusal(CheckpointError, lambda: open_checkpoint(HUB_ID))
    assert found.found == "401 Client Error"
    assert found.hint and "hf auth login" in found.hint


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("cannot reach the Hub"), OSError("no route"), ValueError("no")]
)
def test_no_network(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    fake(monkeypatch, download)
    assert HUB_ID in refusal(CheckpointError, lambda: open_checkpoint(HUB_ID)).message


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refusal(CheckpointError, lambda: open_checkpoint(HUB_ID))
    assert error.hint and "pip install" in error.hint
