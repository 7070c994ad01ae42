"""Through the whole pipeline: every variant is proved, and every seeded fault is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.artifact import MANIFEST
from exporter.targets.executorch import files, layout, lower, plan, program, reading, rotary, xnnpack
from exporter.targets.executorch import kernels as engine
from exporter.targets.executorch import weights as encoding
from exporter.targets.executorch.capabilities import QUANTS, ROWS
from exporter.tensors import Array, RowTensor
from tests.executorch.support import SPEC, Folder
from tests.fixtures.models import LLAMA3_SCALING
from tests.pipeline.harness import run

MODEL = SPEC.replace(rope_scaling=LLAMA3_SCALING, max_seq_len=131072)

Fault = Callable[[pytest.MonkeyPatch], None]


def export(model: Path, out: Path, *quants: str, options: tuple[object, ...] = ()) -> Any:
    chosen = [part for quant in quants for part in ("--quant", quant)]
    return run("export", model, "--target", "executorch", *chosen, "--out", out, "--jobs", 2, *options)


def artifacts(out: Path) -> dict[str, dict[str, Any]]:
    return {a["quant"]: a for a in json.loads((out / MANIFEST).read_text())["artifacts"]}


def failed(out: Path, quant: str) -> set[str]:
    return {check["name"] for check in artifacts(out)[quant]["parity"]["checks"] if not check["passed"]}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_every_variant_passes(tied: bool, huggingface_folder: Folder, tmp_path: Path) -> None:
    outcome = export(huggingface_folder(MODEL.replace(tied=tied)), tmp_path / "out", *QUANTS)
    assert outcome.code == 0, outcome.stderr
    found = artifacts(tmp_path / "out")
    assert {quant: a["parity"]["verdict"] for quant, a in found.items()} == dict.fromkeys(QUANTS, "pass")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_every_variant_passes_without_a_delegate(tied: bool, huggingface_folder: Folder, tmp_path: Path) -> None:
    model, out = huggingface_folder(MODEL.replace(tied=tied)), tmp_path / "out"
    outcome = export(model, out, *ROWS["portable"], options=("--backend", "portable"))
    assert outcome.code == 0, outcome.stderr
    found = artifacts(out)
    assert {quant: a["parity"]["verdict"] for quant, a in found.items()} == {
        f"{quant}-portable": "pass" for quant in ROWS["portable"]
    }
    assert all(not a["requires"]["delegates"] for a in found.values())
    assert found["bf16-portable"]["files"][0]["path"].endswith("-BF16-PORTABLE.pte")
    assert run("verify", out).code == 0


def test_a_dry_run_predicts_the_files(huggingface_folder: Folder, tmp_path: Path) -> None:
    model, out = huggingface_folder(MODEL), tmp_path / "out"
    predicted = export(model, out, *QUANTS, options=("--dry-run", "--format", "json")).json["artifacts"]
    assert not out.exists()
    export(model, out, *QUANTS, options=("--no-verify",))
    made = {a["quant"]: {f["path"]: f["bytes"] for f in a["files"]} for a in artifacts(out).values()}
    assert made == {a["quant"]: {f["path"]: f["bytes"] for f in a["files"]} for a in predicted}


def test_a_folder_can_be_verified_again(huggingface_folder: Folder, tmp_path: Path) -> None:
    model, out = huggingface_folder(MODEL), tmp_path / "out"
    assert export(model, out, "8da4w", options=("--no-verify",)).code == 0
    assert set(artifacts(out)) == {"int4"}
    assert run("verify", out).code == 0


# --- The faults: each changes one thing at one seam ----------------------------------------------------------------


def frozen_position(patch: pytest.MonkeyPatch) -> None:
    """Every token is rotated as the first one is."""
    rows = rotary.rotary_rows
    still = lambda inv_freq, function, a, b: np.repeat(rows(inv_freq, function, 0, 1), b - a, axis=0)  # noqa: E731
    patch.setattr(rotary, "rotary_rows", still)
    patch.setattr(reading, "rotary_rows", still)  # blinded: the logits alone must find it


def wrong_base(patch: pytest.MonkeyPatch) -> None:
    """The table rotates by another base than the model's."""
    tables = rotary.rotary_tables

    def other(frequencies: RowTensor, context: int) -> Any:
        faster = RowTensor("f", frequencies.dtype, frequencies.dims, lambda a, b: frequencies.rows(a, b) ** 0.95)
        return tables(faster, context)

    patch.setattr(lower, "rotary_tables", other)


def late_cache(patch: pytest.MonkeyPatch) -> None:
    """The attention reads the cache as if the tokens were one position further."""
    kernel = program.Program.kernel

    def other(self: program.Program, name: str, overload: str, arguments: Any, result: Any) -> None:
        if name == "llama::custom_sdpa":
            later, one = self.integer(0), self.integer(1)
            kernel(self, "executorch_prim::add", "Scalar", [arguments[3], one], later)
            arguments = [*arguments[:3], later, *arguments[4:]]
        kernel(self, name, overload, arguments, result)

    patch.setattr(program.Program, "kernel", other)


def other_token_of_a_batch(patch: pytest.MonkeyPatch) -> None:
    """A batch gives the logits of its first token, so that prefill and decoding disagree."""
    integer = program.Program.integer
    patch.setattr(program.Program, "integer", lambda self, value: integer(self, 0 if value == -1 else value))


def wrong_epsilon(patch: pytest.MonkeyPatch) -> None:
    """The norms add something else than the graph's."""
    made = lower.from_array
    patch.setattr(lower, "from_array", lambda name, array: made(name, np.full_like(array, 1e-2)))


def wrong_scale_of_attention(patch: pytest.MonkeyPatch) -> None:
    number = program.Program.number
    patch.setattr(program.Program, "number", lambda self, value: number(self, value * 1.05))


def wrong_rows(patch: pytest.MonkeyPatch) -> None:
    """The rows of query and key keep the order that only an interleaved rotation understands."""
    patch.setattr(rotary, "half_from_interleaved", lambda n_heads, head_dim: np.arange(n_heads * head_dim))


def wrong_sign(patch: pytest.MonkeyPatch) -> None:
    """The rotations add where they should subtract; nothing of the weights shows it."""
    patch.setattr(engine.Kernels, "subtract", engine.Kernels.add)


def wrong_scale(patch: pytest.MonkeyPatch) -> None:
    """The first scale of each matrix is off by one unit in the last place of bfloat16."""
    encode = encoding.int4_groups

    def off_by_an_ulp(name: str, ints: RowTensor, scales: RowTensor) -> Any:
        def read(start: int, stop: int) -> Array:
            rows = scales.rows(start, stop).copy()
            rows[0, 0] *= 1 + 2**-7
            return rows

        return encode(name, ints, RowTensor(str(scales.name), scales.dtype, scales.dims, read))

    patch.setattr(xnnpack, "int4_groups", off_by_an_ulp)


def exchanged_nibbles(patch: pytest.MonkeyPatch) -> None:
    pack = encoding.pack_4
    patch.setattr(encoding, "pack_4", lambda ints: (pack(ints) >> np.uint8(4)) | (pack(ints) << np.uint8(4)))


def flipped_bit(patch: pytest.MonkeyPatch) -> None:
    """The file is damaged after it was written: one bit of the last matrix."""
    write = layout.Layout.write

    def damaged(self: layout.Layout, path: Path, *rest: Any) -> Any:
        written = write(self, path, *rest)
        data = bytearray(path.read_bytes())
        data[-3000] ^= 1
        path.write_bytes(data)
        return written

    patch.setattr(layout.Layout, "write", damaged)


def wrong_stops(patch: pytest.MonkeyPatch) -> None:
    """The program knows one stop token of three."""
    values = plan.constant_values
    patch.setattr(
        plan,
        "constant_values",
        lambda *a: {**values(*a), "get_eos_ids": values(*a)["get_eos_ids"][:1]},  # type: ignore[index]
    )


def wrong_template(patch: pytest.MonkeyPatch) -> None:
    """The chat template is lost."""
    render = files.tokenizer_config
    patch.setattr(files, "tokenizer_config", lambda *a: {k: v for k, v in render(*a).items() if k != "chat_template"})


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "rotary position frozen": (frozen_position, "f32", "logits"),
    "rotary base of the table": (wrong_base, "int4", "loads"),
    "cache off by one": (late_cache, "f32", "logits"),
    "prefill is not what decoding is": (other_token_of_a_batch, "f32", "logits"),
    "epsilon": (wrong_epsilon, "f32", "logits"),
    "epsilon, 4 bits": (wrong_epsilon, "int4", "metadata"),
    "scale of the attention": (wrong_scale_of_attention, "f32", "logits"),
    "permuted rows": (wrong_rows, "f32", "weights"),
    "permuted rows, 4 bits": (wrong_rows, "int4", "weights"),
    "a scale off by one ulp": (wrong_scale, "int4", "weights"),
    "exchanged nibbles": (exchanged_nibbles, "int4", "weights"),
    "a flipped bit": (flipped_bit, "int8", "weights"),
    "stop tokens": (wrong_stops, "int4", "tokenizer"),
    "chat template": (wrong_template, "int4", "vocabulary"),
    "kernels: cache off by one": (late_cache, "f32-portable", "logits"),
    "kernels: epsilon": (wrong_epsilon, "int8-portable", "logits"),
    "kernels: scale of the attention": (wrong_scale_of_attention, "int8w-portable", "logits"),
    "kernels: permuted rows": (wrong_rows, "bf16-portable", "weights"),
    "kernels: sign of the rotation": (wrong_sign, "f32-portable", "logits"),
}
"""What is wrong -> the fault, the quantization it is tried on, and the check that must find it."""


@pytest.mark.slow
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
