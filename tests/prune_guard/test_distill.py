"""``exporter distill`` and ``prune-guard --teacher``, as people call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter import targets
from exporter.checkpoint import open_checkpoint
from exporter.ir.weights import initializers
from exporter.prune_guard.training import Training
from exporter.source import SourceOptions, open_source
from tests.fixtures.models import META_SPEC, TinySpec, write_huggingface
from tests.pipeline.harness import Outcome, manifest, run, snapshot

pytestmark = pytest.mark.slow

SPEC = META_SPEC.replace(n_layers=3, dim=64)
QUICK = ("--steps", 4, "--batch", 2, "--learning-rate", 3e-3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("source") / "tiny", SPEC)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog; 42 times, and then it sleeps.\n" * 20)
    return path


@pytest.fixture(scope="module")
def pruned(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "small"
    data = ("--data", text, "--sequences", 5, "--seq-len", 16)
    assert run("prune", model, "--layers", 2, *data, "--out", out).code == 0
    return out


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "data.jsonl"
    asked = [
        {"messages": [{"role": "user", "content": f"{word} {i}"}], "label": label, "categories": codes}
        for i in range(3)
        for word, label, codes in (("bread", "safe", []), ("poison", "unsafe", ["S1"]))
    ]
    path.write_text("\n".join(map(json.dumps, asked)))
    return path


def distill(student: Path, teacher: Path, text: Path, out: Path, *options: object) -> Outcome:
    data = ("--data", text, "--sequences", 10, "--seq-len", 16)
    return run("distill", student, "--teacher", teacher, *data, "--out", out, *QUICK, *options)


def weights(folder: Path) -> dict[str, Any]:
    found = initializers(open_source(str(folder), SourceOptions()).graph())
    return {name: rows.rows_f32(0, rows.n_rows) for name, rows in found.items()}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in a step of the next training."""
    step = Training.step

    def interrupted(self: Training) -> Any:
        if self.step_number == number:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Training, "step", interrupted)


# --- distill -----------------------------------------------------------------------------------------------------


def test_a_student_is_trained_saved_and_exported(model: Path, text: Path, pruned: Path, tmp_path: Path) -> None:
    outcome = distill(pruned, model, text, tmp_path / "out", "--format", "json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["after"]["cross_entropy"] < outcome.json["before"]["cross_entropy"]
    assert "distilling: 4 of 4, KL " in outcome.stderr
    assert "tokens/s" in outcome.stderr
    memory = json.loads((tmp_path / "out/prune.json").read_text())
    assert [step["step"].split(":")[0] for step in memory["report"]] == ["source", "depth", "distillation"]
    assert memory["recovery"]["settings"]["steps"] == 4
    assert [file["path"] for file in memory["recovery"]["teacher"]["files"]][:2] == ["config.json", "model.safetensors"]
    assert len(json.loads((tmp_path / "out/distillation.json").read_text())) == 4
    assert (tmp_path / "out/importance.json").read_bytes() == (pruned / "importance.json").read_bytes()
    assert not (tmp_path / "out/training").exists()
    exported = run("export", tmp_path / "out", "--target", "gguf", "--quant", "f32", "--out", tmp_path / "gguf")
    assert exported.code == 0, exported.stderr
    assert manifest(tmp_path / "gguf")["artifacts"][0]["parity"]["verdict"] == "pass"
    assert "distilled from" in manifest(tmp_path / "gguf")["model"]["notes"][-1]


def test_any_model_can_be_a_student(model: Path, text: Path, tmp_path: Path) -> None:
    outcome = distill(model, model, text, tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    assert open_checkpoint(tmp_path / "out").notes[-1].startswith("made from")


def test_an_interrupted_training_goes_on_and_nothing_is_lost(
    model: Path, text: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distill(pruned, model, text, tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        outcome = distill(pruned, model, text, tmp_path / "out", "--save-every", 2)
    assert outcome.code == 130
    assert f"interrupted: what is done is kept in {tmp_path / 'out/training'}" in outcome.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["training"]
    outcome = distill(pruned, model, text, tmp_path / "out", "--save-every", 2)
    assert outcome.code == 0, outcome.stderr
    assert "going on behind step 2" in outcome.stderr
    assert "asking the teacher" not in outcome.stderr
    whole, found = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(np.array_equal(whole[name], found[name]) for name in whole)
    log = [json.loads((tmp_path / name / "distillation.json").read_text()) for name in ("whole", "out")]
    assert log[0] == log[1]


def test_what_the_teacher_said_can_be_kept(model: Path, text: Path, pruned: Path, tmp_path: Path) -> None:
    kept = ("--teacher-logits", tmp_path / "logits")
    assert "asking the teacher" in distill(pruned, model, text, tmp_path / "a", *kept).stderr
    before = snapshot(tmp_path / "logits")
    assert "asking the teacher" not in distill(pruned, model, text, tmp_path / "b", *kept).stderr
    assert snapshot(tmp_path / "logits") == before
    assert [Path(name).suffix for name in before] == ["", ".safetensors"]


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "absent.txt"], "cannot be read"),
        (["--seq-len", 9000], "longer than the model's context"),
        (["--qat", "gguf:q4_k_m"], "training cannot round as q4_k_m does"),
        (["--qat", "executorch:int3"], "--qat executorch:int3 names no quantization"),
        (["--qat", "nowhere:int4"], "unknown target"),
        (["--qat", "executorch:int4-g256"], "cannot be quantized to int4"),
        (["--teacher", "absent"], "absent"),
    ],
)
def test_what_cannot_be_is_refused(
    model: Path, text: Path, pruned: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    outcome = distill(pruned, model, text, tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.error["error"]
    assert not (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize("content", ["", "Hello."], ids=["empty", "too short"])
def test_data_without_a_sequence_is_refused(model: Path, pruned: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "data.txt").write_text(content)
    outcome = distill(pruned, model, tmp_path / "data.txt", tmp_path / "out")
    assert outcome.code == 2
    assert "too short" in outcome.error["error"]


def test_a_teacher_with_another_tokenizer_is_refused(text: Path, pruned: Path, tmp_path: Path) -> None:
    teacher = write_huggingface(tmp_path / "teacher", SPEC)
    document = json.loads((teacher / "tokenizer.json").read_text())
    document["added_tokens"][20]["content"] = "<|something_else|>"
    (teacher / "tokenizer.json").write_text(json.dumps(document))
    outcome = distill(pruned, teacher, text, tmp_path / "out")
    assert outcome.code == 2
    assert outcome.error["error"] == "the teacher has another tokenizer than the student"
    assert "'<|something_else|>'" in outcome.error["found"]
    assert not (tmp_path / "out").exists()


def test_another_training_in_the_same_place_is_refused(
    model: Path, text: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        distill(pruned, model, text, tmp_path / "out", "--save-every", 2)
    before = snapshot(tmp_path / "out")
    outcome = distill(pruned, model, text, tmp_path / "out", "--steps", 5)
    assert "holds another training that did not finish" in outcome.error["error"]
    assert snapshot(tmp_path / "out") == before
    assert distill(pruned, model, text, tmp_path / "out", "--steps", 5, "--force").code == 0


def test_a_model_that_is_there_is_not_replaced(model: Path, text: Path, pruned: Path) -> None:
    before = snapshot(pruned)
    assert "holds a pruned model" in distill(pruned, model, text, pruned).error["error"]
    assert snapshot(pruned) == before


# --- prune-guard -------------------------------------------------------------------------------------------------

WIDE: TinySpec = SPEC.replace(dim=256, head_dim=64, ffn_dim=512)
"""Divides into the recipe's groups of 256."""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("guard") / "guard", WIDE)


def prune_guard(guard: Path, labelled: Path, out: Path, *options: object) -> Outcome:
    words = labelled.parent / "words.txt"
    words.write_text("safe\nunsafe\nS1,S2,S3,S4,S5,S6,S7,S8,S9,S10")
    return run(
        "prune-guard", guard, "--out", out, "--layers", 2, "--ffn", 256, "--keep-tokens", words, "--data", labelled,
        "--seq-len", 1024, *QUICK, *options,
    )  # fmt: skip


def test_a_guard_is_pruned_and_recovered_on_the_grid_that_it_ships_on(
    guard: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert prune_guard(guard, labelled, tmp_path / "out", "--teacher", guard).code == 130
    outcome = prune_guard(guard, labelled, tmp_path / "out", "--teacher", guard, "--format", "json")
    assert outcome.code == 0, outcome.stderr
    assert "nothing was recovered" not in outcome.stderr
    assert "scoring" not in outcome.stderr  # what was pruned before the interruption is used
    steps = [step["step"].split(":")[0] for step in outcome.json["steps"]]
    assert steps == ["source", "width", "depth", "vocabulary", "distillation"]
    memory = json.loads((tmp_path / "out/prune.json").read_text())
    assert memory["recovery"]["rounds_for"] == "executorch:int4-g256-e4g32"
    assert memory["recovery"]["after"]["cross_entropy"] < memory["recovery"]["before"]["cross_entropy"]
    assert memory["recipe"] == "llama-guard-3-1b-int4"
    exported = run("export", tmp_path / "out", "--target", "executorch", "--out", tmp_path / "files", "--no-verify")
    assert exported.code == 0, exported.stderr
    assert manifest(tmp_path / "files")["artifacts"][0]["quant"] == "int4-g256-e4g32"


def test_recovery_needs_data(guard: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("safe unsafe")
    outcome = run(
        "prune-guard", guard, "--out", tmp_path / "out", "--layers", 2, "--ffn", 256, "--keep-tokens", words,
        "--teacher", guard,
    )  # fmt: skip
    assert outcome.code == 2
    assert "nothing to recover on" in outcome.error["error"]


def test_an_answer_outside_the_kept_tokens_is_refused(guard: Path, labelled: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("xyz")
    outcome = prune_guard(guard, labelled, tmp_path / "out", "--teacher", guard, "--keep-tokens", words)
    assert outcome.code == 2
    assert "cannot be said by the pruned head" in outcome.error["error"]


def test_a_dry_run_tells_the_files_of_every_target(guard: Path, labelled: Path, tmp_path: Path) -> None:
    outcome = prune_guard(guard, labelled, tmp_path / "out", "--dry-run", "--format", "json")
    assert outcome.code == 0, outcome.stderr
    assert not (tmp_path / "out").exists()
    made = prune_guard(guard, labelled, tmp_path / "out", "--format", "json")
    assert outcome.json["parameters"] == made.json["steps"][-1]["parameters"]
    n_tokens = WIDE.vocab_size
    kept = open_source(str(tmp_path / "out"), SourceOptions()).config.kept_tokens
    assert kept is not None
    missing = (n_tokens - len(kept)) * WIDE.dim
    assert outcome.json["with_whole_head"] == outcome.json["parameters"] + missing
    chosen = [part for name in targets.REGISTRY for part in ("--target", name)]
    assert run("export", tmp_path / "out", *chosen, "--out", tmp_path / "files", "--no-verify").code == 0
    real = {Path(f["path"]).suffix: f["bytes"] for a in manifest(tmp_path / "files")["artifacts"] for f in a["files"]}
    predicted = {Path(file["path"]).suffix: file["nbytes"] for file in outcome.json["files"]}
    assert predicted.keys() == real.keys()
    assert all(abs(predicted[name] / real[name] - 1) < 0.005 for name in real)
