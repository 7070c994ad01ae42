"""Nobody names the format; options that do not apply, and paths that hold nothing, are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from exporter.checkpoint import open_checkpoint
from exporter.config import RopeScaling
from exporter.errors import CheckpointError
from tests.checkpoint.refusals import refusal
from tests.fixtures.models import LLAMA3_SCALING, TinySpec, write_gguf, write_huggingface, write_meta

SCALED = TinySpec(rope_scaling=LLAMA3_SCALING)


def test_the_format_is_recognised(tmp_path: Path) -> None:
    assert open_checkpoint(write_meta(tmp_path / "meta")).format == "meta"
    assert open_checkpoint(write_huggingface(tmp_path / "hf")).format == "huggingface"
    assert open_checkpoint(write_gguf(tmp_path / "gguf" / "a.gguf")).format == "gguf"
    assert open_checkpoint(str(tmp_path / "gguf")).format == "gguf"


def test_huggingface_wins_in_a_folder_of_both(tmp_path: Path) -> None:
    write_meta(tmp_path)
    assert open_checkpoint(write_huggingface(tmp_path)).format == "huggingface"


def test_a_relative_path_still_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_huggingface(tmp_path / "tiny"))
    assert open_checkpoint(".").info.name == "tiny"


def test_an_unrecognised_folder_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "notes.txt").touch()
    error = refusal(CheckpointError, lambda: open_checkpoint(tmp_path))
    assert error.expected == ("config.json with *.safetensors, or params.json with consolidated.*.pth, or *.gguf")
    assert error.found == "notes.txt, original/"
    assert error.hint


def test_an_empty_folder(tmp_path: Path) -> None:
    assert refusal(CheckpointError, lambda: open_checkpoint(tmp_path)).found == "an empty folder"


def test_pickled_weights_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    assert "safe_serialization" in str(refusal(CheckpointError, lambda: open_checkpoint(tmp_path)).hint)


def test_several_models_in_one_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_gguf(tmp_path / f"{name}.gguf")
    error = refusal(CheckpointError, lambda: open_checkpoint(tmp_path))
    assert (error.expected, error.found) == ("one", "a.gguf, b.gguf")


@pytest.mark.parametrize("name", ["./nothing/here", "/nothing", "a/b/c", "nothing.gguf"])
def test_nothing_at_the_path(name: str) -> None:
    assert refusal(CheckpointError, lambda: open_checkpoint(name)).found == "nothing at this path"


def test_another_kind_of_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.touch()
    assert refusal(CheckpointError, lambda: open_checkpoint(file)).found == "another kind of file"


@pytest.mark.may_skip
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    (folder / "model.safetensors").chmod(0)
    assert refusal(CheckpointError, lambda: open_checkpoint(folder)).expected


def test_a_disk_that_fails_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error", "model.safetensors")

    monkeypatch.setattr("exporter.checkpoint.huggingface.read_tensors", fail)
    error = refusal(CheckpointError, lambda: open_checkpoint(write_huggingface(tmp_path)))
    assert (error.message, error.found) == ("model.safetensors cannot be read", "Input/output error")


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", [LLAMA3_SCALING, RopeScaling("linear", 2.0)], ids=["llama3", "linear"])
def test_the_rope_factor_can_be_replaced(scaling: RopeScaling, tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, TinySpec(rope_scaling=scaling))
    checkpoint = open_checkpoint(folder, rope_scale_factor=32)
    assert checkpoint.config.rope_scaling == RopeScaling(**{**vars(scaling), "factor": 32.0})
    assert any("32" in note for note in checkpoint.notes)


@pytest.mark.parametrize(("spec", "factor"), [(TinySpec(), 8.0), (SCALED, 0.0), (SCALED, -1.0)])
def test_a_rope_factor_that_does_not_apply(spec: TinySpec, factor: float, tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, spec)
    refusal(CheckpointError, lambda: open_checkpoint(folder, rope_scale_factor=factor))


def test_the_context_length_can_be_replaced(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    assert open_checkpoint(folder, max_seq_len=512).config.max_seq_len == 512
    assert any("more than" in note for note in open_checkpoint(folder, max_seq_len=9000).notes)
    refusal(CheckpointError, lambda: open_checkpoint(folder, max_seq_len=0))


def test_a_revision_belongs_to_a_hub_id(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    assert "--revision" in str(refusal(CheckpointError, lambda: open_checkpoint(folder, revision="main")).hint)
