"""Rows with choices in them: what a name means, what is refused, and that every combination is proved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import CheckpointError, TargetError
from exporter.targets.base import Options
from exporter.targets.executorch import weights as encoding
from exporter.targets.executorch.backends import BACKENDS
from exporter.targets.executorch.capabilities import QUANTS, ROWS
from exporter.targets.executorch.target import EXECUTORCH
from exporter.targets.executorch.variants import GROUP_SIZES, Variant, chosen, parse
from exporter.tensors import Array
from tests.executorch.support import SPEC, Folder, export
from tests.executorch.test_pipeline import artifacts
from tests.executorch.test_pipeline import export as export_in_full

WIDE = SPEC.replace(dim=256, ffn_dim=512, n_heads=8, n_kv_heads=2, head_dim=32)
"""Every width is a multiple of every group size."""

CHOICES = st.none() | st.sampled_from(GROUP_SIZES)


@given(st.sampled_from(sorted(QUANTS)), CHOICES, CHOICES, st.sampled_from(sorted(BACKENDS)))
def test_a_name_says_all_there_is_to_say(base: str, group: int | None, embedding: int | None, backend: str) -> None:
    variant = Variant(base, group, embedding, backend)
    again = parse(variant.name)
    assert again is not None
    assert again.name == variant.name
    assert (again.base, again.embedding_group) == (base, embedding)
    assert again.backend == backend


@given(st.text(max_size=12))
def test_no_text_is_taken_for_a_row_that_does_not_exist(name: str) -> None:
    variant = parse(name)
    assert variant is None or variant.base in {base for rows in ROWS.values() for base in rows}


@pytest.mark.parametrize(
    ("name", "options", "row"),
    [
        ("int4", Options(), "int4"),
        ("int4", Options(group_size=32), "int4"),
        ("8da4w", Options(group_size=128, embedding="4,32"), "int4-g128-e4g32"),
        ("int4-g64", Options(), "int4-g64"),
        ("int4-g64", Options(group_size=256), "int4-g256"),
        ("int4", Options(embedding="8,0"), "int4"),
        ("int8", Options(embedding="4,64"), "int8-e4g64"),
        ("q4_k_m", Options(), None),
        ("int4-g", Options(), None),
        ("f32", Options(backend="portable"), "f32-portable"),
        ("f32-portable", Options(), "f32-portable"),
        ("f32-portable", Options(backend="xnnpack"), "f32"),
        ("bf16", Options(backend="portable"), "bf16-portable"),
        ("bf16", Options(), None),
        ("q4_k_m", Options(backend="portable"), None),
        # Somebody meant it: the answer is a refusal with its reason.
        ("int4", Options(backend="portable"), "int4-portable"),
        ("f32-qualcomm", Options(), "f32-qualcomm"),
    ],
)
def test_options_and_names_lead_to_the_same_rows(name: str, options: Options, row: str | None) -> None:
    assert EXECUTORCH.resolve(name, options) == row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int4-g48", "no kernel for this group size"),
        ("int4-e4g16", "no kernel for this group size"),
        ("int8-g64", "has no groups"),
        ("f32-g64", "has no groups"),
        ("f32-e4g32", "keeps every weight"),
        ("int5", "has no quantization"),
        ("bf16", "the backend xnnpack does not compute bf16"),
        ("int4-portable", "the backend portable does not compute int4"),
        ("int8-e4g32-portable", "no group sizes to choose"),
        ("f32-qualcomm", "backend qualcomm cannot be built"),
    ],
)
def test_a_row_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        EXECUTORCH.quant(name)


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TargetError, match="unknown backend 'tpu'"):
        EXECUTORCH.resolve("f32", Options(backend="tpu"))


@pytest.mark.parametrize("text", ["", "4", "4,", "4,x", "3,32", "4,32,1", "4,-32"])
def test_an_embedding_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="not understood"):
        chosen(Variant("int4"), Options(embedding=text))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_every_choice_is_proved(tied: bool, huggingface_folder: Folder, tmp_path: Path) -> None:
    rows = ("int4-g64", "int4-g256", "int4-e4g32", "int4-g128-e4g64", "int8-e4g32")
    outcome = export_in_full(huggingface_folder(WIDE.replace(tied=tied)), tmp_path / "out", *rows)
    assert outcome.code == 0, outcome.stderr
    found = artifacts(tmp_path / "out")
    assert {quant: a["parity"]["verdict"] for quant, a in found.items()} == dict.fromkeys(rows, "pass")
    assert found["int4-e4g32"]["files"][0]["path"].endswith("-INT4-E4G32.pte")


def test_a_tied_4_bit_embedding_is_stored_once_with_two_kinds_of_scales(
    huggingface_folder: Folder, tmp_path: Path
) -> None:
    groups = WIDE.vocab_size * WIDE.dim // 32
    tied, untied = (
        export(huggingface_folder(WIDE.replace(tied=flag)), tmp_path / str(flag), "int4-e4g32").plan.weight_bytes
        for flag in (True, False)
    )
    head = WIDE.vocab_size * (WIDE.dim + 4)  # which keeps 8 bits where it is a matrix of its own
    assert untied - tied == head - 2 * groups


def test_scales_of_the_embedding_that_are_not_the_heads_are_found(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = encoding.int4_table
    monkeypatch.setattr(
        "exporter.targets.executorch.lower.int4_table", lambda *a, **k: _with_other_halves(table(*a, **k))
    )
    path = export(huggingface_folder(WIDE.replace(tied=True)), tmp_path, "int4-e4g32").path
    weight = EXECUTORCH.read_back([path]).weights["tok_embeddings.weight"]
    with pytest.raises(CheckpointError, match="not their scales"):
        weight.rows(0, 4)


def _with_other_halves(weight: encoding.Weight) -> encoding.Weight:
    def changed(task: encoding.Task) -> encoding.Task:
        def run() -> tuple[Array, ...]:
            ints, halves, steps = task()
            return ints, np.nextafter(halves, np.float16(1)), steps

        return run

    return encoding.Weight(weight.blobs, tuple(changed(task) for task in weight.tasks))
