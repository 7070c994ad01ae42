"""The same integers on every target, packed as MatMulNBits wants them, in files that a browser can hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from exporter.errors import TargetError
from exporter.targets.base import Options
from exporter.targets.gguf.target import GGUF
from exporter.targets.onnx import layout
from exporter.targets.onnx.target import ONNX
from exporter.targets.onnx.weights import pack_4, pack_8
from tests.fixtures.models import TinySpec
from tests.onnx.support import SPEC, export, relative

Folder = Callable[[TinySpec], Path]

ROWS = st.integers(1, 4)


@given(ROWS.flatmap(lambda n: nps.arrays(np.int8, (n, 32), elements=st.integers(-8, 7))))
def test_two_4_bit_values_share_a_byte_the_even_column_below(ints: np.ndarray) -> None:
    packed = pack_4(ints)
    assert np.array_equal((packed & 15).astype(np.int8) - 8, ints[:, 0::2])
    assert np.array_equal((packed >> 4).astype(np.int8) - 8, ints[:, 1::2])


@given(ROWS.flatmap(lambda n: nps.arrays(np.int8, (n, 32), elements=st.integers(-127, 127))))
def test_8_bit_values_count_from_128(ints: np.ndarray) -> None:
    assert np.array_equal(pack_8(ints).astype(np.int16) - 128, ints)


@pytest.mark.parametrize("quant", ["int4", "int8", "f16", "f32"])
@pytest.mark.parametrize("tied", [False, True])
def test_decoded_weights_equal_the_ggufs_bit_for_bit(
    quant: str, tied: bool, huggingface_folder: Folder, tmp_path: Path
) -> None:
    exported = export(huggingface_folder(SPEC.replace(tied=tied)), tmp_path, quant)
    gguf = GGUF.plan(exported.source.subject(), quant, Options()).write(tmp_path, lambda *_: None)
    expected = GGUF.read_back([tmp_path / file.path for file in gguf]).weights
    found = ONNX.read_back(exported.paths).weights
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        a, b = want.rows_f32(0, want.n_rows), found[name].rows_f32(0, want.n_rows)
        assert np.array_equal(a.view(np.uint32), b.view(np.uint32)), name


def test_q4f16_carries_the_integers_of_int4(huggingface_folder: Folder, tmp_path: Path) -> None:
    decoded = []
    for quant in ("int4", "q4f16"):
        exported = export(huggingface_folder(SPEC), tmp_path / quant, quant)
        decoded.append({n: t.rows_f32(0, t.n_rows) for n, t in ONNX.read_back(exported.paths).weights.items()})
    assert all(np.array_equal(decoded[0][name], decoded[1][name]) for name in decoded[0])


@pytest.mark.parametrize("quant", ["f32", "int4"])
def test_a_tied_embedding_is_stored_once(quant: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    tied, untied = (
        export(huggingface_folder(SPEC.replace(tied=flag)), tmp_path / str(flag), quant) for flag in (True, False)
    )
    table = SPEC.vocab_size * SPEC.dim
    assert (
        untied.plan.weight_bytes - tied.plan.weight_bytes == {"f32": 4 * table, "int4": table + table // 32 * 4}[quant]
    )


def test_the_sizes_and_hashes_are_those_of_the_files(huggingface_folder: Folder, tmp_path: Path) -> None:
    plan = ONNX.plan(export(huggingface_folder(SPEC), tmp_path).source.subject(), "int4", Options(jobs=3))
    done: list[int] = []
    written = plan.write(tmp_path, lambda nbytes, what: done.append(nbytes))
    assert [(f.path, f.nbytes) for f in plan.files] == [(f.path, f.nbytes) for f in written]
    assert sum(done) == sum(f.nbytes for f in written)
    for file in written:
        data = (tmp_path / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.nbytes, file.sha256)


def test_threads_change_nothing(huggingface_folder: Folder, tmp_path: Path) -> None:
    files = [
        [
            p.read_bytes()
            for p in export(huggingface_folder(SPEC), tmp_path / str(jobs), "int4", Options(jobs=jobs)).paths
        ]
        for jobs in (1, 4)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("quant", ["f32", "int4"])
def test_large_models_have_several_data_files(
    quant: str, huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(huggingface_folder(SPEC), tmp_path / "whole", quant)
    limit = max(weight.nbytes for weight in whole.plan.variant.lowered.weights) + 256
    monkeypatch.setattr(layout, "MAX_FILE_BYTES", limit)
    parts = export(huggingface_folder(SPEC), tmp_path / "parts", quant)
    names = [path.name for path in parts.paths]
    model = names[0]
    assert names[1:] == [f"{model}_data", *(f"{model}_data_{i}" for i in range(1, len(names) - 1))]
    assert len(names) > 2
    assert all(path.stat().st_size <= limit for path in parts.paths[1:])
    ids = list(range(20))
    assert relative(parts.load().logits(ids), whole.load().logits(ids)) == 0


def test_a_weight_that_no_browser_can_load_is_refused_before_anything_is_written(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_FILE_BYTES", 1000)
    with pytest.raises(TargetError) as refusal:
        export(huggingface_folder(SPEC), tmp_path)
    assert "browser" in refusal.value.message
    assert "int4" in str(refusal.value.hint)
    assert not list(tmp_path.iterdir())


def test_onnx_itself_resolves_the_external_data(huggingface_folder: Folder, tmp_path: Path) -> None:
    model = onnx.load(export(huggingface_folder(SPEC), tmp_path).paths[0])
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    norm = ONNX.read_back([tmp_path / "onnx/onnx/model.onnx"]).weights["norm.weight"]
    assert np.array_equal(found["norm.weight"], norm.rows_f32(0, norm.n_rows))
