"""``exporter prune``, ``prune-guard`` and ``guard-eval``, as people call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.checkpoint import open_checkpoint
from exporter.commands import prune as command
from exporter.config import ModelConfig
from exporter.ir.build import build, config_of
from exporter.prune_guard import methods, recipes
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.prune import parameters
from exporter.prune_guard.vocabulary import narrow_head
from exporter.prune_guard.width import narrow_feed_forward
from exporter.source import SourceOptions, open_source
from tests.fixtures import sparse
from tests.fixtures.models import LLAMA3_SCALING, META_SPEC, write_huggingface
from tests.pipeline.harness import Outcome, manifest, run, snapshot

SPEC = META_SPEC.replace(n_layers=4)

GUARD_1B = ModelConfig(
    dim=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, ffn_dim=8192, vocab_size=128256, norm_eps=1e-5,
    rope_theta=500000.0, max_seq_len=131072, rope_scaling=LLAMA3_SCALING, tied_embeddings=False,
)  # fmt: skip
"""Llama Guard 3 1B, whose head is its own."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("source") / "tiny", SPEC)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog; 42 times, and then it sleeps.\n" * 20)
    return path


def prune(model: Path, out: Path, *options: object) -> Outcome:
    return run("prune", model, "--out", out, "--sequences", 10, "--seq-len", 16, *options)


# --- prune -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", methods.METHODS)
def test_width_first_then_depth_each_with_its_price(model: Path, text: Path, tmp_path: Path, importance: str) -> None:
    outcome = prune(
        model, tmp_path / "out", "--layers", 2, "--ffn", 64, "--importance", importance, "--data", text,
        "--format", "json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    steps = outcome.json["steps"]
    assert [step["step"].split(":")[0] for step in steps] == ["source", "width", "depth"]
    assert all(step["perplexity"] > 1 for step in steps)
    assert steps[0]["parameters"] > steps[1]["parameters"] > steps[2]["parameters"]
    again = open_source(str(tmp_path / "out"), SourceOptions())
    assert (again.config.n_layers, again.config.ffn_dim) == (2, 64)
    assert parameters(again.config) == steps[2]["parameters"]
    document = json.loads((tmp_path / "out/prune.json").read_text())
    assert (document["importance"], len(document["dropped_blocks"])) == (importance, 2)
    assert document["calibration"]["sequences"] == 10


def test_scores_are_kept_as_numbers_and_as_a_picture(model: Path, text: Path, tmp_path: Path) -> None:
    prune(model, tmp_path / "out", "--layers", 2, "--ffn", 64, "--data", text)
    scores = json.loads((tmp_path / "out/importance.json").read_text())
    assert (len(scores["blocks"]["scores"]), len(scores["blocks"]["dropped"])) == (4, 2)
    assert [len(row) for row in scores["neurons"]["scores"]] == [96] * 4
    assert [len(row) for row in scores["neurons"]["kept"]] == [64] * 4
    assert (tmp_path / "out/importance.png").read_bytes().startswith(b"\x89PNG")


def test_one_sequence_in_five_is_not_calibrated_on(model: Path, text: Path, tmp_path: Path) -> None:
    """Text that only the held-out sequences have changes the perplexity and not the scores."""
    other = tmp_path / "other.jsonl"
    lines = [{"text": "some text that says nothing at all"}] * 10
    other.write_text("\n".join(map(json.dumps, lines)))
    first = prune(model, tmp_path / "a", "--layers", 2, "--data", other, "--format", "json")
    lines[4] = lines[9] = {"text": "quite another text, with other words in it"}
    other.write_text("\n".join(map(json.dumps, lines)))
    second = prune(model, tmp_path / "b", "--layers", 2, "--data", other, "--format", "json")
    assert (tmp_path / "a/importance.json").read_text() == (tmp_path / "b/importance.json").read_text()
    assert first.json["steps"][0]["perplexity"] != second.json["steps"][0]["perplexity"]


def test_magnitude_needs_no_text(model: Path, tmp_path: Path) -> None:
    outcome = prune(model, tmp_path / "out", "--layers", 3, "--importance", "magnitude", "--format", "json")
    assert [step["perplexity"] for step in outcome.json["steps"]] == [None, None]


def test_tokens_of_a_text_are_kept(model: Path, text: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("the dog sleeps")
    outcome = prune(model, tmp_path / "out", "--keep-tokens", words, "--data", text, "--format", "json")
    assert outcome.code == 0, outcome.stderr
    source = open_source(str(tmp_path / "out"), SourceOptions())
    assert set(source.config.kept_tokens or ()) >= set(source.tokenizer.encode("the dog sleeps"))
    assert outcome.json["steps"][-1]["perplexity"] is None
    exported = run("export", tmp_path / "out", "--target", "gguf", "--quant", "f32", "--out", tmp_path / "gguf")
    assert exported.code == 0, exported.stderr
    assert manifest(tmp_path / "gguf")["artifacts"][0]["parity"]["verdict"] == "pass"


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", 5], "cannot keep so many blocks"),
        (["--layers", 0], "cannot keep so many blocks"),
        (["--ffn", 97], "cannot keep so many neurons"),
        ([], "nothing to prune"),
        (["--layers", 4, "--ffn", 96], "nothing to prune"),
        (["--layers", 2], "needs calibration text"),
        (["--layers", 2, "--data", "absent.txt"], "cannot be read"),
        (["--layers", 2, "--seq-len", 9000], "longer than the model's context"),
        (["--keep-tokens", "absent.gbnf"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    model: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    outcome = prune(model, tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.error["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "too short"),
        ("short.txt", "Hello.", "too short"),
        ("empty.jsonl", "\n", "too short"),
        ("broken.jsonl", "{", "line 1 is not JSON"),
        ("list.jsonl", "[1]", "line 1 is not a JSON object"),
        ("other.jsonl", '{"body": "x"}', "nothing to run on"),
    ],
)
def test_calibration_text_that_is_none_is_refused(
    model: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    outcome = prune(model, tmp_path / "out", "--layers", 2, "--data", tmp_path / name)
    assert outcome.code == 2
    assert message in outcome.error["error"]


def test_what_is_there_is_not_overwritten(model: Path, text: Path, tmp_path: Path) -> None:
    assert prune(model, tmp_path / "out", "--layers", 3, "--data", text).code == 0
    before = snapshot(tmp_path / "out")
    outcome = prune(model, tmp_path / "out", "--layers", 2, "--data", text)
    assert "holds a pruned model" in outcome.error["error"]
    assert snapshot(tmp_path / "out") == before
    assert prune(model, tmp_path / "out", "--layers", 2, "--data", text, "--force").code == 0
    assert open_checkpoint(tmp_path / "out").config.n_layers == 2


# --- prune-guard -------------------------------------------------------------------------------------------------


def test_the_recipe_meets_the_published_number_of_parameters(tmp_path: Path) -> None:
    recipe = recipes.get("llama-guard-3-1b-int4")
    checkpoint = open_checkpoint(sparse.write_huggingface(tmp_path / "guard", GUARD_1B))
    model = build(checkpoint.config, checkpoint.tensors)
    narrow_feed_forward(model, [range_(recipe.ffn_dim)] * 16)
    drop_blocks(model, range(8, 12))
    assert config_of(model).n_layers == recipe.n_layers
    assert parameters(config_of(model)) == 1_123_076_096
    narrow_head(model, range(20))
    assert parameters(config_of(model)) == 1_123_076_096 - (128_256 - 20) * 2048


def range_(n: int) -> Any:
    import numpy as np

    return np.arange(n)


def test_a_model_of_another_shape_needs_other_numbers(model: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("safe unsafe")
    outcome = run("prune-guard", model, "--out", tmp_path / "out", "--keep-tokens", words)
    assert outcome.code == 2
    assert outcome.error["error"] == "recipe llama-guard-3-1b-int4 cannot keep so many blocks"
    assert "--layers and --ffn" in outcome.error["hint"]


def test_a_vocabulary_without_the_recipes_words_is_refused(model: Path, tmp_path: Path) -> None:
    outcome = run("prune-guard", model, "--out", tmp_path / "out", "--layers", 2, "--ffn", 64)
    assert outcome.code == 2
    assert "words of the grammar are not single tokens" in outcome.error["error"]


def test_without_recovery_there_is_a_warning(model: Path, tmp_path: Path) -> None:
    words, data = tmp_path / "words.txt", tmp_path / "data.jsonl"
    words.write_text("safe\nunsafe\nS1,S2,S3,S4,S5,S6,S7,S8,S9,S10")
    records = [
        {"messages": [{"role": "user", "content": f"question {i}"}], "label": "unsafe", "categories": ["S1"]}
        for i in range(5)
    ]
    data.write_text("\n".join(map(json.dumps, records)))
    outcome = run(
        "prune-guard", model, "--out", tmp_path / "out", "--layers", 2, "--ffn", 64, "--keep-tokens", words,
        "--data", data, "--seq-len", 256,
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert "warning: nothing was recovered" in outcome.stderr
    checkpoint = open_checkpoint(tmp_path / "out")
    assert dict(checkpoint.quants) == dict(recipes.get("llama-guard-3-1b-int4").quants)
    assert "pruned from" in checkpoint.notes[-1]


def test_the_commands_know_every_method_and_recipe() -> None:
    assert tuple(methods.METHODS) == command.IMPORTANCES
    assert tuple(recipes.RECIPES) == command.RECIPES


# --- guard-eval --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["gguf", "onnx"])
def test_a_guard_is_judged_in_its_runtime(model: Path, tmp_path: Path, target: str) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "report"
    records = [
        {"messages": [{"role": "user", "content": text}], "label": label, "categories": codes}
        for text, label, codes in (("hello", "safe", []), ("poison", "unsafe", ["S1"]), ("bread", "safe", []))
    ]
    data.write_text("\n".join(map(json.dumps, records)))
    run("export", model, "--target", target, "--quant", "f32", "--no-verify", "--out", tmp_path / "model")
    outcome = run("guard-eval", tmp_path / "model", data, "--out", out, "--format", "json")
    assert outcome.code == 0, outcome.stderr
    (report,) = outcome.json["artifacts"].values()
    assert (report["n_safe"], report["n_unsafe"]) == (2, 1)
    assert 0 <= report["chosen"]["f1"] <= 1
    assert json.loads((out / "guard-eval.json").read_text()) == outcome.json
    assert (out / "guard-eval.png").read_bytes().startswith(b"\x89PNG")
