"""The bytes of the file: weights as XNNPACK reads them, stored once, exactly where and as large as predicted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from exporter.errors import CheckpointError, ExporterError
from exporter.quant.packing import pack_4, unpack_4
from exporter.targets.base import Options
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.target import EXECUTORCH
from exporter.targets.gguf.target import GGUF
from tests.executorch.support import SPEC, Folder, export

ROWS = st.integers(1, 4)


@given(ROWS.flatmap(lambda n: nps.arrays(np.int8, (n, 32), elements=st.integers(-8, 7))))
def test_two_4_bit_values_share_a_byte_the_even_column_below(ints: np.ndarray) -> None:
    packed = pack_4(ints)
    assert np.array_equal((packed & 15).astype(np.int8) - 8, ints[:, 0::2])
    assert np.array_equal((packed >> 4).astype(np.int8) - 8, ints[:, 1::2])
    assert np.array_equal(unpack_4(packed), ints)


def test_the_layers_of_int4_equal_the_ggufs_bit_for_bit(huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(SPEC), tmp_path, "int4")
    gguf = GGUF.plan(exported.source.subject(), "int4", Options()).write(tmp_path, lambda *_: None)
    expected = GGUF.read_back([tmp_path / file.path for file in gguf]).weights
    found = EXECUTORCH.read_back([exported.path]).weights
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        if name not in ("tok_embeddings.weight", "output.weight"):
            a, b = want.rows_f32(0, want.n_rows), found[name].rows_f32(0, want.n_rows)
            assert np.array_equal(a.view(np.uint32), b.view(np.uint32)), name


@pytest.mark.parametrize(("quant", "table"), [("f32", 4 * SPEC.dim), ("int4", SPEC.dim + 4), ("int8", SPEC.dim + 4)])
def test_a_tied_embedding_is_stored_once(quant: str, table: int, huggingface_folder: Folder, tmp_path: Path) -> None:
    tied, untied = (
        export(huggingface_folder(SPEC.replace(tied=flag)), tmp_path / str(flag), quant) for flag in (True, False)
    )
    assert untied.plan.weight_bytes - tied.plan.weight_bytes == SPEC.vocab_size * table
    assert untied.path.stat().st_size - tied.path.stat().st_size > 0.9 * SPEC.vocab_size * table


@pytest.mark.parametrize("quant", ["f32", "int8", "int4"])
def test_the_size_and_the_hash_are_those_of_the_file(quant: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    plan = EXECUTORCH.plan(export(huggingface_folder(SPEC), tmp_path).source.subject(), quant, Options(jobs=3))
    done: list[int] = []
    (written,) = plan.write(tmp_path, lambda nbytes, what: done.append(nbytes))
    data = (tmp_path / written.path).read_bytes()
    assert [(f.path, f.nbytes) for f in plan.files] == [(written.path, written.nbytes)]
    assert (len(data), hashlib.sha256(data).hexdigest()) == (written.nbytes, written.sha256)
    assert sum(done) == written.nbytes


def test_threads_change_nothing(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = huggingface_folder(SPEC)
    files = [export(folder, tmp_path / str(jobs), "int4", Options(jobs=jobs)).path for jobs in (1, 4)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("tied", [False, True])
def test_executorch_itself_reads_the_file(tied: bool, huggingface_folder: Folder, tmp_path: Path) -> None:
    """Its own deserializer, which restores what it would have serialized."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    path = export(huggingface_folder(SPEC.replace(tied=tied)), tmp_path, "int4").path
    restored = deserialize_pte_binary(path.read_bytes())
    ours = PteFile(path)
    assert [plan.name for plan in restored.program.execution_plan] == list(ours.plans)
    assert restored.named_data is not None
    stored = restored.named_data
    for key, data in ours.named.items():
        assert stored.buffers[stored.pte_data[key].buffer_index] == data.tobytes()


@pytest.mark.parametrize("damage", ["truncated", "not a program", "empty"])
def test_a_damaged_file_is_refused(damage: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    path = export(huggingface_folder(SPEC), tmp_path, "int4").path
    data: Any = path.read_bytes()
    path.write_bytes({"truncated": data[:-1000], "not a program": b"x" * 1000, "empty": b""}[damage])
    with pytest.raises(ExporterError):
        weights = EXECUTORCH.read_back([path]).weights
        assert weights


def test_the_rotary_table_must_be_the_one_config_json_describes(huggingface_folder: Folder, tmp_path: Path) -> None:
    path = export(huggingface_folder(SPEC), tmp_path).path
    config = path.parent / "config.json"
    config.write_text(config.read_text().replace("500000.0", "10000.0"))
    with pytest.raises(CheckpointError, match="does not rotate"):
        EXECUTORCH.read_back([path])
