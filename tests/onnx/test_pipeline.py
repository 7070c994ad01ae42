"""Through the whole pipeline: every variant is proved, and every seeded fault is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.artifact import MANIFEST
from exporter.config import ModelConfig
from exporter.targets.onnx import emit, lower, plan, repository, rotary, weights
from exporter.targets.onnx.capabilities import QUANTS
from exporter.tensors import Array, RowTensor
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.onnx.support import SPEC
from tests.pipeline.harness import run

MODEL = SPEC.replace(rope_scaling=LLAMA3_SCALING, max_seq_len=131072)

Folder = Callable[[TinySpec], Path]
Fault = Callable[[pytest.MonkeyPatch], None]


def export(model: Path, out: Path, *quants: str, options: tuple[object, ...] = ()) -> Any:
    chosen = [part for quant in quants for part in ("--quant", quant)]
    return run("export", model, "--target", "onnx", *chosen, "--out", out, "--jobs", 2, *options)


def artifacts(out: Path) -> dict[str, dict[str, Any]]:
    return {a["quant"]: a for a in json.loads((out / MANIFEST).read_text())["artifacts"]}


def failed(out: Path, quant: str) -> set[str]:
    return {check["name"] for check in artifacts(out)[quant]["parity"]["checks"] if not check["passed"]}


@pytest.mark.parametrize("tied", [False, True])
def test_every_variant_passes(tied: bool, huggingface_folder: Folder, tmp_path: Path) -> None:
    outcome = export(huggingface_folder(MODEL.replace(tied=tied)), tmp_path / "out", *QUANTS)
    assert outcome.code == 0, outcome.stderr
    found = artifacts(tmp_path / "out")
    assert {quant: a["parity"]["verdict"] for quant, a in found.items()} == dict.fromkeys(QUANTS, "pass")
    for artifact in found.values():
        for file in artifact["files"]:
            assert (tmp_path / "out" / file["path"]).stat().st_size == file["bytes"]


def test_a_dry_run_predicts_the_files(huggingface_folder: Folder, tmp_path: Path) -> None:
    model, out = huggingface_folder(MODEL), tmp_path / "out"
    predicted = export(model, out, "int4", "f16", options=("--dry-run", "--format", "json")).json["artifacts"]
    assert not out.exists()
    export(model, out, "int4", "f16", options=("--no-verify",))
    made = {a["quant"]: {f["path"]: f["bytes"] for f in a["files"]} for a in artifacts(out).values()}
    assert made == {a["quant"]: {f["path"]: f["bytes"] for f in a["files"]} for a in predicted}


def test_a_variant_can_be_added_later(huggingface_folder: Folder, tmp_path: Path) -> None:
    model, out = huggingface_folder(MODEL), tmp_path / "out"
    for quant in ("int4", "f32"):
        outcome = export(model, out, quant, options=("--no-verify",))
        assert outcome.code == 0, outcome.stderr
    assert set(artifacts(out)) == {"int4", "f32"}
    assert run("verify", out).code == 0


# --- The faults: each changes one thing at one seam ----------------------------------------------------------------


def wrong_table(patch: pytest.MonkeyPatch) -> None:
    """The table rotates by another base."""
    tables = rotary.rotary_tables

    def other(frequencies: RowTensor, *rest: Any) -> Any:
        faster = RowTensor("f", frequencies.dtype, frequencies.dims, lambda a, b: frequencies.rows(a, b) ** 0.95)
        return tables(faster, *rest)

    patch.setattr(lower, "rotary_tables", other)


def wrong_rows(patch: pytest.MonkeyPatch) -> None:
    """The rows of query and key keep the order that only an interleaved rotation understands."""
    patch.setattr(lower, "half_from_interleaved", lambda n_heads, head_dim: np.arange(n_heads * head_dim))


def wrong_scale(patch: pytest.MonkeyPatch) -> None:
    """The first scale of each chunk is off by one unit in the last place."""
    pack = weights.integer_weight

    def off_by_an_ulp(name: str, parts: Any, *rest: Any) -> Any:
        def nudged(scales: RowTensor) -> RowTensor:
            def read(start: int, stop: int) -> Array:
                rows = scales.rows(start, stop).copy()
                rows[0, 0] = np.nextafter(rows[0, 0].astype(np.float32), np.float32(1))
                return rows

            return RowTensor(str(scales.name), scales.dtype, scales.dims, read)

        return pack(name, [(ints, nudged(scales)) for ints, scales in parts], *rest)

    patch.setattr(lower, "integer_weight", off_by_an_ulp)


def wrong_nibbles(patch: pytest.MonkeyPatch) -> None:
    """The halves of a byte are exchanged."""
    pack = weights.pack_4
    patch.setitem(weights.PACK, 4, lambda ints: (pack(ints) >> np.uint8(4)) | (pack(ints) << np.uint8(4)))


def wrong_epsilon(patch: pytest.MonkeyPatch) -> None:
    """The norms add something else than the graph's."""
    append = emit.Emitter._append

    def other(self: emit.Emitter, *arguments: Any) -> Any:
        *rest, attributes = arguments
        return append(self, *rest, {key: 1e-2 if key == "epsilon" else x for key, x in attributes.items()})

    patch.setattr(emit.Emitter, "_append", other)


def wrong_config(**changes: Any) -> Fault:
    """config.json describes another function."""

    def seed(patch: pytest.MonkeyPatch) -> None:
        model_config = repository.model_config
        patch.setattr(
            repository,
            "model_config",
            lambda config, tokenizer: model_config(config.replace(**changes), tokenizer),
        )

    return seed


def wrong_stops(patch: pytest.MonkeyPatch) -> None:
    """generation_config.json names one stop token of three."""
    generation = repository.generation_config
    patch.setattr(
        repository, "generation_config", lambda t: {**generation(t), "eos_token_id": generation(t)["eos_token_id"][:1]}
    )


def wrong_template(patch: pytest.MonkeyPatch) -> None:
    """The chat template is lost."""
    render = repository.tokenizer_config

    def without(tokenizer: Any, config: ModelConfig) -> dict[str, Any]:
        return {k: v for k, v in render(tokenizer, config).items() if k != "chat_template"}

    patch.setattr(repository, "tokenizer_config", without)


def damaged_file(patch: pytest.MonkeyPatch) -> None:
    """The file is damaged after it was written: one bit of the embedding."""
    write = plan.layout.write_data

    def damaged(placed: Any, path: str, folder: Path, *rest: Any) -> Any:
        files = write(placed, path, folder, *rest)
        with (folder / files[0].path).open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        return files

    patch.setattr(plan.layout, "write_data", damaged)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "rotary base of the table": (wrong_table, "f32", "logits"),
    "rotary base of the table, 4 bits": (wrong_table, "int4", "logits"),
    "permuted rows": (wrong_rows, "f32", "weights"),
    "permuted rows, 4 bits": (wrong_rows, "int4", "weights"),
    "a scale off by one ulp": (wrong_scale, "int4", "weights"),
    "exchanged nibbles": (wrong_nibbles, "int4", "weights"),
    "epsilon": (wrong_epsilon, "f32", "logits"),
    "config.json: rope_theta": (wrong_config(rope_theta=10000.0), "f32", "metadata"),
    "config.json: rope_scaling": (wrong_config(rope_scaling=None), "int4", "metadata"),
    "stop tokens": (wrong_stops, "int4", "tokenizer"),
    "chat template": (wrong_template, "int4", "vocabulary"),
    "a flipped bit": (damaged_file, "int4", "weights"),
}
"""What is wrong -> the fault, the quantization it is tried on, and the check that must find it."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_the_verdict(
    name: str, huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, quant, check = FAULTS[name]
    model = huggingface_folder(MODEL)
    fault(monkeypatch)
    outcome = export(model, tmp_path / "out", quant)
    assert outcome.code == 3, outcome.stderr
    assert check in failed(tmp_path / "out", quant)
