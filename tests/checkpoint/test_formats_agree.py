"""The same weights in every format are the same model: configuration, names, order, bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.checkpoint import Checkpoint, open_checkpoint, resolve_tied_head
from exporter.config import RopeScaling
from tests.fixtures import vocabulary
from tests.fixtures.models import (
    LLAMA3_SCALING,
    META_SPEC,
    TinySpec,
    weights,
    write_gguf,
    write_huggingface,
    write_meta,
)

Writer = Callable[[Path, TinySpec], Path]

WRITERS: dict[str, Writer] = {
    "meta": write_meta,
    "meta-8": lambda path, spec: write_meta(path, spec, model_parallel=8),
    "huggingface": write_huggingface,
    "huggingface-3": lambda path, spec: write_huggingface(path, spec, shards=3),
    "gguf": lambda path, spec: write_gguf(path / "tiny.gguf", spec),
    "gguf-split": lambda path, spec: write_gguf(path / "tiny.gguf", spec, tensors_per_part=5),
}

SPECS = {
    "untied": META_SPEC,
    "tied": META_SPEC.replace(tied=True),
    "llama3-rope": META_SPEC.replace(rope_scaling=LLAMA3_SCALING, max_seq_len=131072),
}


def assert_is(checkpoint: Checkpoint, spec: TinySpec) -> None:
    expected = weights(spec)
    assert checkpoint.config == spec.config
    assert list(checkpoint.tensors) == list(expected), "every weight, in graph order"
    for name, array in expected.items():
        tensor = checkpoint.tensors[name]
        assert tensor.name == name
        assert tensor.dims == array.shape
        assert np.array_equal(tensor.rows_f32(0, tensor.n_rows), array.astype(np.float32)), name


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_format_is_the_same_model(write: Writer, spec: TinySpec, tmp_path: Path) -> None:
    assert_is(resolve_tied_head(open_checkpoint(write(tmp_path, spec))), spec)


@pytest.mark.parametrize("write", [WRITERS["huggingface"], WRITERS["gguf"]], ids=["huggingface", "gguf"])
@pytest.mark.parametrize(
    "spec",
    [TinySpec(), TinySpec(rope_scaling=RopeScaling("linear", 4.0)), TinySpec(n_kv_heads=4), TinySpec(n_kv_heads=1)],
    ids=["wide heads", "linear rope", "multi-head", "multi-query"],
)
def test_what_params_json_cannot_say(write: Writer, spec: TinySpec, tmp_path: Path) -> None:
    assert_is(open_checkpoint(write(tmp_path, spec)), spec)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["meta", "meta-8", "huggingface"])
def test_weights_keep_their_type(name: str, dtype: str, tmp_path: Path) -> None:
    spec = META_SPEC.replace(dtype=dtype)
    checkpoint = open_checkpoint(WRITERS[name](tmp_path, spec))
    for weight, array in weights(spec).items():
        assert checkpoint.tensors[weight].rows(0, 2).dtype == array.dtype


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_tokenizer_comes_along(write: Writer, tmp_path: Path) -> None:
    tokenizer = open_checkpoint(write(tmp_path, META_SPEC)).load_tokenizer()
    assert len(tokenizer.pieces) == vocabulary.VOCAB_SIZE
    assert tokenizer.pieces[-256:] == vocabulary.SPECIALS
    assert {vocabulary.EOS, vocabulary.EOT} <= set(tokenizer.stop_ids)


def test_a_tokenizer_shorter_than_the_embedding_is_padded(tmp_path: Path) -> None:
    spec = META_SPEC.replace(vocab_size=vocabulary.VOCAB_SIZE + 8)
    assert len(open_checkpoint(write_huggingface(tmp_path, spec)).load_tokenizer().pieces) == spec.vocab_size


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_file_that_was_read_is_listed(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, META_SPEC)
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.files) == set(path.parent.iterdir() if path.is_file() else path.iterdir())


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {name: open_checkpoint(write(tmp_path_factory.mktemp(name), META_SPEC)) for name, write in WRITERS.items()}


@given(data=st.data(), reader=st.sampled_from([*WRITERS]), name=st.sampled_from([*weights(META_SPEC)]))
def test_any_rows_are_those_of_the_whole(
    data: st.DataObject, reader: str, name: str, opened: dict[str, Checkpoint]
) -> None:
    whole = weights(META_SPEC)[name].astype(np.float32)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    tensor = opened[reader].tensors[name]
    assert np.array_equal(tensor.rows_f32(start, stop), whole[start:stop])
