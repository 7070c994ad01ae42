"""Meta's folders: what params.json leaves open, how shards join, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.checkpoint import open_checkpoint
from exporter.checkpoint.fields import Fields
from exporter.checkpoint.meta import parse_config
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.tensors import from_array
from tests.checkpoint.refusals import refusal
from tests.fixtures.models import META_SPEC, meta_params, torch_tensor, weights, write_meta

PUBLISHED = {
    # llama_models sku_list.py and the config.json of each on the Hub: params.json -> ffn_dim, RoPE factor, context
    "3.2-1B": (
        {"dim": 2048, "n_layers": 16, "n_heads": 32, "ffn_dim_multiplier": 1.5, "multiple_of": 256},
        (8192, 32.0, 131072),
    ),
    "3.2-3B": (
        {"dim": 3072, "n_layers": 28, "n_heads": 24, "ffn_dim_multiplier": 1.0, "multiple_of": 256},
        (8192, 32.0, 131072),
    ),
    "3.1-8B": (
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024},
        (14336, 8.0, 131072),
    ),
    "3.1-70B": (
        {"dim": 8192, "n_layers": 80, "n_heads": 64, "ffn_dim_multiplier": 1.3, "multiple_of": 4096},
        (28672, 8.0, 131072),
    ),
    "3.1-405B": (
        {"dim": 16384, "n_layers": 126, "n_heads": 128, "ffn_dim_multiplier": 1.2, "multiple_of": 4096},
        (53248, 8.0, 131072),
    ),
    "guard-3-1B pruned": (
        {"dim": 2048, "n_layers": 12, "n_heads": 32, "multiple_of": 256, "hidden_dim": 6400},
        (6400, 32.0, 131072),
    ),
    "3-8B": (
        {
            "dim": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "ffn_dim_multiplier": 1.3,
            "multiple_of": 1024,
            "use_scaled_rope": False,
        },
        (14336, None, 8192),
    ),
    "2-7B": (
        {
            "dim": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "n_kv_heads": None,
            "multiple_of": 256,
            "rope_theta": None,
            "use_scaled_rope": False,
        },
        (11008, None, 4096),
    ),
}


@pytest.mark.parametrize(("params", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_shapes(params: dict[str, Any], expected: tuple[int, float | None, int]) -> None:
    common = {"n_kv_heads": 8, "vocab_size": 128256, "norm_eps": 1e-5, "rope_theta": 5e5, "use_scaled_rope": True}
    config, notes = parse_config(Fields(common | params, Path("params.json")), [{}])
    ffn_dim, factor, max_seq_len = expected
    assert config.ffn_dim == ffn_dim
    assert config.head_dim == params["dim"] // params["n_heads"]
    assert config.max_seq_len == max_seq_len
    assert (config.rope_scaling.factor if config.rope_scaling else None) == factor
    assert any(str(max_seq_len) in note for note in notes), "what the table chose is told"
    assert factor is None or any(f"RoPE factor {factor:g}" in note for note in notes)


def test_an_unpublished_width_takes_metas_own_default_and_says_so(folder: Path) -> None:
    checkpoint = open_checkpoint(edit(folder, use_scaled_rope=True))
    assert checkpoint.config.rope_scaling and checkpoint.config.rope_scaling.factor == 8.0
    assert any("unpublished" in note for note in checkpoint.notes)


def edit(folder: Path, **changes: Any) -> Path:
    params = json.loads((folder / "params.json").read_text()) | changes
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def rewrite(folder: Path, rank: int = 0, **changes: Any) -> Path:
    """Change or (with ``None``) delete tensors of one shard; dots are spelled ``__``."""
    file = folder / f"consolidated.{rank:02d}.pth"
    stored = torch.load(file, weights_only=True) | {k.replace("__", "."): v for k, v in changes.items()}
    torch.save({k: v for k, v in stored.items() if v is not None}, file)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_meta(tmp_path / "tiny")


@pytest.fixture
def folder_of_8(tmp_path: Path) -> Path:
    return write_meta(tmp_path / "tiny-8", model_parallel=8)


# --- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_embedding_of_llama_1_and_2_joins_along_its_width(ranks: int, tmp_path: Path) -> None:
    folder = write_meta(tmp_path, model_parallel=ranks)
    expected = weights(META_SPEC)["tok_embeddings.weight"]
    for rank, part in enumerate(np.split(expected, ranks, axis=1)):
        rewrite(folder, rank, tok_embeddings__weight=torch_tensor(part))
    found = open_checkpoint(folder).tensors["tok_embeddings.weight"]
    assert np.array_equal(found.rows(0, found.n_rows), expected)


@pytest.mark.parametrize("by_width", [False, True])
def test_a_vocabulary_of_minus_one_is_as_high_as_the_embedding(by_width: bool) -> None:
    """Llama 1 and 2 write ``vocab_size: -1``."""
    fields = Fields(meta_params(META_SPEC) | {"vocab_size": -1}, Path("params.json"))
    shape = (32000, META_SPEC.dim // 4) if by_width else (8000, META_SPEC.dim)
    slice_ = from_array("tok_embeddings.weight", np.zeros(shape, np.float16))
    config, _ = parse_config(fields, [{"tok_embeddings.weight": slice_}] * 4)
    assert config.vocab_size == 32000


def test_rows_are_views_of_the_mapped_file(folder: Path) -> None:
    rows = open_checkpoint(folder).tensors["layers.0.attention.wq.weight"].rows(0, 4)
    assert not rows.flags.owndata
    assert not rows.flags.writeable


@pytest.mark.parametrize("gone", [0, 3])
def test_a_gap_in_the_numbering(gone: int, folder_of_8: Path) -> None:
    (folder_of_8 / f"consolidated.{gone:02d}.pth").unlink()
    error = refusal(CheckpointError, lambda: open_checkpoint(folder_of_8))
    assert error.expected == f"consolidated.{gone:02d}.pth"
    assert error.hint


def test_a_missing_last_shard_shows_in_the_shapes(folder_of_8: Path) -> None:
    (folder_of_8 / "consolidated.07.pth").unlink()
    error = refusal(CheckpointError, lambda: open_checkpoint(folder_of_8))
    assert error.expected == "consolidated.00.pth to consolidated.07.pth"
    assert error.found == "7 of these 8 files"


def test_a_lone_first_shard(folder_of_8: Path) -> None:
    for rank in range(1, 8):
        (folder_of_8 / f"consolidated.{rank:02d}.pth").unlink()
    assert refusal(CheckpointError, lambda: open_checkpoint(folder_of_8)).found == "1 of these 8 files"


@pytest.mark.parametrize(
    "change", [{"norm__weight": None}, {"norm__weight": torch.ones(8)}, {"norm__weight": torch.ones(64)}]
)
def test_shards_that_disagree(change: dict[str, Any], folder_of_8: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(rewrite(folder_of_8, 5, **change)))
    assert "norm.weight" in error.message
    assert "different checkpoints" in str(error.hint)


# --- what can be wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vision_chunk_size": 448}, "vision"),
        ({"moe_args": {"num_experts": 16}}, "mixture-of-experts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_that_are_not_supported(change: dict[str, Any], word: str, folder: Path) -> None:
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(edit(folder, **change)))
    assert word in error.message


def test_no_vision_is_spelled_minus_one(folder: Path) -> None:
    assert open_checkpoint(edit(folder, vision_chunk_size=-1, quantization_args=None)).format == "meta"


@pytest.mark.parametrize("change", [{"dim": None}, {"n_heads": 0}, {"n_layers": 0}, {"n_kv_heads": 3}], ids=str)
def test_numbers_that_describe_no_model(change: dict[str, Any], folder: Path) -> None:
    refusal(CheckpointError, lambda: open_checkpoint(edit(folder, **change)))


@pytest.mark.parametrize("weight", [torch.tensor(1.0), torch.ones(3)], ids=["scalar", "vector"])
@pytest.mark.parametrize("name", ["tok_embeddings__weight", "layers__0__attention__wq__weight"])
def test_weights_without_the_axes_of_a_matrix(weight: Any, name: str, folder: Path) -> None:
    rewrite(edit(folder, vocab_size=-1), **{name: weight})
    refusal(CheckpointError, lambda: open_checkpoint(folder))


def test_missing_and_unused_tensors_are_listed(folder: Path) -> None:
    rewrite(folder, layers__0__attention__wo__weight=None, layers__0__attention__wo__bias=torch.zeros(64))
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "layers.0.attention.wo.weight" in str(error.expected)
    assert "layers.0.attention.wo.bias" in str(error.found)


def test_a_wrong_shape(folder: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, ffn_dim_multiplier=1.0)))
    assert (error.expected, error.found) == ("[192, 64]", "[96, 64]")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_a_wrong_element_type(dtype: torch.dtype, folder: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(rewrite(folder, norm__weight=torch.ones(64).to(dtype))))
    assert error.found == str(dtype)


@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_a_truncated_file(keep: int, folder: Path) -> None:
    file = folder / "consolidated.00.pth"
    file.write_bytes(file.read_bytes()[:keep])
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert str(file) in error.message
    assert error.hint == "download the file again"


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("boom",))


def test_a_pickle_that_is_not_weights_is_not_executed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, folder / "consolidated.00.pth")
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "was not executed" in error.message
    assert "mkdir" in str(error.found)
    assert error.hint
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("stored", [[1, 2], {"step": 3}], ids=["list", "numbers"])
def test_a_pickle_of_something_harmless(stored: Any, folder: Path) -> None:
    torch.save(stored, folder / "consolidated.00.pth")
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert error.expected == "a dictionary of tensors"


def test_a_plain_pickle_and_a_plain_zip(folder: Path) -> None:
    file = folder / "consolidated.00.pth"
    file.write_bytes(pickle.dumps({"a": 1}))
    refusal(CheckpointError, lambda: open_checkpoint(folder))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    refusal(CheckpointError, lambda: open_checkpoint(folder))
