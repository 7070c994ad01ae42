"""Weights in a file of their own: any program of the model may use it, and nothing of the model is anywhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.errors import ExporterError
from exporter.ir import interpreter
from exporter.parity import check_weights
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import worker
from exporter.targets.executorch.reading import PtdFile
from exporter.targets.executorch.runtime import ExecuTorch
from exporter.targets.executorch.target import EXECUTORCH
from tests.executorch.support import SPEC, Folder, Program, export, relative
from tests.executorch.test_logits import TOLERANCE
from tests.executorch.test_pipeline import artifacts
from tests.executorch.test_pipeline import export as export_in_full
from tests.executorch.test_runner import MESSAGES
from tests.fixtures.downloads import smollm2_gguf
from tests.ir.graphs import token_ids
from tests.pipeline.harness import run

SPLIT = Options(split_weights=True)
QUANTS = ("f32", "int8", "int4", "int4-e4g32")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_every_variant_passes_in_two_files(tied: bool, huggingface_folder: Folder, tmp_path: Path) -> None:
    model, out = huggingface_folder(SPEC.replace(tied=tied)), tmp_path / "out"
    planned = export_in_full(model, out, *QUANTS, options=("--split-weights", "--dry-run", "--format", "json")).json
    outcome = export_in_full(model, out, *QUANTS, options=("--split-weights",))
    assert outcome.code == 0, outcome.stderr
    made = {a["quant"]: {f["path"]: f["bytes"] for f in a["files"]} for a in artifacts(out).values()}
    assert made == {a["quant"]: {f["path"]: f["bytes"] for f in a["files"]} for a in planned["artifacts"]}
    assert {Path(path).suffix for files in made.values() for path in files} == {".pte", ".ptd"}
    assert run("verify", out).code == 0


@pytest.mark.slow
def test_a_bundle_of_both_files_is_verified(huggingface_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_in_full(huggingface_folder(SPEC), out, "f32", options=("--split-weights", "--bundle"))
    outcome = run("verify", out / "bundles/executorch-f32.tar", "--format", "json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["golden_answers"] == 3


@pytest.mark.parametrize("quant", ["f32", "int4-e4g32"])
def test_programs_of_different_contexts_share_one_file(quant: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    long, short = (
        export(huggingface_folder(SPEC.replace(tied=True, max_seq_len=n)), tmp_path / str(n), quant, SPLIT)
        for n in (256, 64)
    )
    assert long.data is not None
    assert short.data is not None
    assert long.data.read_bytes() == short.data.read_bytes()
    assert long.path.read_bytes() != short.path.read_bytes()
    ids = token_ids(SPEC.vocab_size, 40)
    program = Program(worker.open_program(str(short.path), str(long.data)))
    assert np.array_equal(program.logits(ids, 20), short.load().logits(ids, 20))


def test_two_files_compute_what_one_does(huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(SPEC), tmp_path, "f32", SPLIT)
    ids = token_ids(SPEC.vocab_size, 40)
    expected = interpreter.logits(exported.source.graph(), ids)
    assert relative(exported.load().logits(ids, 20), expected[19:]) < TOLERANCE


def test_no_weight_of_the_model_stays_in_the_program(huggingface_folder: Folder, tmp_path: Path) -> None:
    program = {
        n: export(huggingface_folder(SPEC.replace(ffn_dim=n)), tmp_path / str(n), "f32", SPLIT) for n in (96, 960)
    }
    small, large = (e.path.stat().st_size for e in program.values())
    assert abs(large - small) < 1024


def test_executorch_itself_reads_the_data_file(huggingface_folder: Folder, tmp_path: Path) -> None:
    from executorch.exir._serialize._cord import Cord
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    exported = export(huggingface_folder(SPEC), tmp_path, "int4-e4g32", SPLIT)
    assert exported.data is not None
    theirs = FlatTensorSerializer().deserialize(Cord(exported.data.read_bytes()))
    ours = PtdFile(exported.data)
    assert theirs.named_data.keys() == ours.named.keys()
    for key, entry in theirs.named_data.items():
        assert theirs.buffers[entry.buffer_index] == ours.named[key].tobytes()
    table = theirs.named_data["tok_embeddings.weight.scales"].tensor_layout
    assert (table.sizes, table.dim_order) == ([SPEC.vocab_size, SPEC.dim // 32], [0, 1])


@pytest.mark.slow
def test_the_runner_runs_two_contexts_over_one_file(tmp_path: Path) -> None:
    """As ``docs/executorch.md`` says: two exports, and what an app ships of them is two programs and one data file."""
    programs, hashes = {}, set()
    for n in (256, 1024):
        out = tmp_path / str(n)
        options = ("--max-seq-len", n, "--split-weights", "--no-verify")
        assert export_in_full(smollm2_gguf(), out, "int4", options=options).code == 0
        program, data = artifacts(out)["int4"]["files"]
        programs[n], shipped = out / program["path"], out / data["path"]
        hashes.add(data["sha256"])
    assert len(hashes) == 1
    (tmp_path / "256").joinpath(data["path"]).unlink()

    question = open_source(str(smollm2_gguf()), SourceOptions()).tokenizer.render_chat(MESSAGES)
    for program in programs.values():
        assert "Paris" in ExecuTorch(program, shipped).generate(question, 60)
    long = "This is a long story. " * 60 + question
    assert ExecuTorch(programs[1024], shipped).generate(long, 20)
    with pytest.raises(ExporterError, match="ExecuTorch fails") as refusal:
        ExecuTorch(programs[256], shipped).generate(long, 20)
    assert ">= max_context_len 256" in str(refusal.value.found)


# --- Negative controls ----------------------------------------------------------------------------------------------


def test_a_program_without_its_weights_is_refused(huggingface_folder: Folder, tmp_path: Path) -> None:
    path = export(huggingface_folder(SPEC), tmp_path, "f32", SPLIT).path
    with pytest.raises(ExporterError, match="ExecuTorch fails"):
        ExecuTorch(path).logits([1, 2, 3])


@pytest.mark.parametrize("damage", ["truncated", "another format", "empty"])
def test_a_damaged_data_file_is_refused(damage: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(SPEC), tmp_path, "int4", SPLIT)
    assert exported.data is not None
    data = exported.data.read_bytes()
    exported.data.write_bytes({"truncated": data[:-1000], "another format": b"x" * 1000, "empty": b""}[damage])
    with pytest.raises(ExporterError):
        assert EXECUTORCH.read_back([exported.path, exported.data]).weights


def test_the_weights_of_another_model_are_not_the_programs(huggingface_folder: Folder, tmp_path: Path) -> None:
    mine, other = (
        export(huggingface_folder(SPEC.replace(seed=seed)), tmp_path / str(seed), "f32", SPLIT) for seed in (0, 5)
    )
    assert other.data is not None
    found = check_weights(mine.plan.expected, EXECUTORCH.read_back([mine.path, other.data]).weights)
    assert not found.passed
