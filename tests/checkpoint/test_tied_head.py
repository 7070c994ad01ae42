"""Whether a stored head is the embedding again is settled by the bits, and early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.checkpoint import Checkpoint, open_checkpoint, resolve_tied_head
from exporter.names import EMBEDDING, HEAD
from exporter.tensors import RowTensor
from tests.fixtures.models import (
    META_SPEC,
    huggingface_config,
    huggingface_weights,
    write_huggingface,
    write_meta,
    write_safetensors,
)


def counted(tensor: RowTensor, log: list[int]) -> RowTensor:
    def read(start: int, stop: int) -> np.ndarray:
        log.append(stop - start)
        return tensor.read(start, stop)

    return RowTensor(str(tensor.name), tensor.dtype, tensor.dims, read)


def with_log(checkpoint: Checkpoint) -> tuple[Checkpoint, list[int]]:
    import dataclasses

    log: list[int] = []
    tensors = {name: counted(tensor, log) for name, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors), log


@pytest.mark.parametrize("tied", [True, False])
def test_opening_meta_leaves_the_question_open(tied: bool, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_meta(tmp_path, META_SPEC.replace(tied=tied)))
    assert checkpoint.config.tied_embeddings is None
    assert HEAD in checkpoint.tensors


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_answer_it(tied: bool, tmp_path: Path) -> None:
    checkpoint = resolve_tied_head(open_checkpoint(write_meta(tmp_path, META_SPEC.replace(tied=tied))))
    assert checkpoint.config.tied_embeddings is tied
    assert (HEAD in checkpoint.tensors) is not tied


def test_nothing_but_the_two_is_read_and_an_answer_stays(tmp_path: Path) -> None:
    checkpoint, log = with_log(open_checkpoint(write_meta(tmp_path, META_SPEC.replace(tied=True))))
    resolved = resolve_tied_head(checkpoint)
    assert sum(log) == 2 * META_SPEC.vocab_size
    assert resolve_tied_head(resolved) is resolved


def test_the_first_difference_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.checkpoint.head._COMPARED_WEIGHTS", 16 * META_SPEC.dim)
    checkpoint, log = with_log(open_checkpoint(write_meta(tmp_path, META_SPEC)))
    assert resolve_tied_head(checkpoint).config.tied_embeddings is False
    assert log == [16, 16]


def test_one_bit_makes_it_untied(tmp_path: Path) -> None:
    """Negative control: a head that differs from the embedding in the sign of one zero."""
    import torch

    path = write_meta(tmp_path, META_SPEC.replace(tied=True))
    stored = torch.load(path / "consolidated.00.pth", weights_only=True)
    stored[EMBEDDING][-1, -1] = 0.0
    stored[HEAD] = stored[EMBEDDING].clone()
    stored[HEAD][-1, -1] = -0.0
    torch.save(stored, path / "consolidated.00.pth")
    assert resolve_tied_head(open_checkpoint(path)).config.tied_embeddings is False


def test_meta_without_a_head_is_tied(tmp_path: Path) -> None:
    import torch

    path = write_meta(tmp_path, META_SPEC.replace(tied=True))
    stored = torch.load(path / "consolidated.00.pth", weights_only=True)
    del stored[HEAD]
    torch.save(stored, path / "consolidated.00.pth")
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.tied_embeddings is True
    assert HEAD not in checkpoint.tensors


@pytest.mark.parametrize("copied", [True, False])
def test_huggingface_head_beside_a_tied_embedding(copied: bool, tmp_path: Path) -> None:
    """config.json says tied, the file has a head all the same: as with Meta, the weights decide."""
    import json

    path = write_huggingface(tmp_path, META_SPEC)
    stored = huggingface_weights(META_SPEC)
    if copied:
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    write_safetensors(path / "model.safetensors", stored)
    (path / "config.json").write_text(json.dumps(huggingface_config(META_SPEC) | {"tie_word_embeddings": True}))
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.tied_embeddings is None
    assert any("lm_head.weight" in note for note in checkpoint.notes)
    assert resolve_tied_head(checkpoint).config.tied_embeddings is copied
