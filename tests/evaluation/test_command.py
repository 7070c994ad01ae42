"""``exporter eval`` on real artifacts in their real runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporter import evaluation
from exporter.ir import interpreter
from exporter.source import SourceOptions, open_source
from tests.fixtures.models import TinySpec
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import run

SPEC = TinySpec(max_seq_len=64, head_dim=16)
Folder = Callable[[TinySpec], Path]
WINDOWS = ("--windows", 3, "--window", 32)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("The ferry leaves at six. Straßen, nächste: 1234 plums! " * 40, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(huggingface_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """f32 and a 4-bit variant for every target, unproved."""
    out = tmp_path_factory.mktemp("artifacts") / "out"
    for target, quants in (("gguf", ("f32", "q4_0")), ("onnx", ("f32", "int4")), ("executorch", ("f32", "int4"))):
        chosen = [part for quant in quants for part in ("--quant", quant)]
        done = run("export", huggingface_folder(SPEC), "--target", target, *chosen, "--out", out, "--no-verify")
        assert done.code == 0, done.stderr
    return out


@pytest.mark.slow
@needs_llama_cpp
def test_every_artifact_is_judged_in_its_own_runtime(
    folder: Path, text: Path, huggingface_folder: Folder, tmp_path: Path
) -> None:
    plot = tmp_path / "quality.png"
    model = huggingface_folder(SPEC)
    outcome = run("eval", folder, "--reference", model, "--text", text, *WINDOWS, "--plot", plot, "--format", "json")
    assert outcome.code == 0, outcome.stderr
    found = {entry["name"]: entry for entry in outcome.json["artifacts"]}
    assert set(found) == {f"{t} {q}" for t in ("gguf", "onnx", "executorch") for q in ("f32", "int4")} - {
        "gguf int4"
    } | {"gguf q4_0"}
    for name, entry in found.items():
        exact = name.endswith("f32")
        assert (entry["kl"]["mean"] < 1e-8) == exact, name
        assert (entry["top1"]["mean"] == 1.0) or not exact
        assert (
            entry["perplexity_ratio"]["low"] <= entry["perplexity_ratio"]["mean"] <= entry["perplexity_ratio"]["high"]
        )
        assert entry["perplexity"] == pytest.approx(
            outcome.json["reference"]["perplexity"] * entry["perplexity_ratio"]["mean"]
        )
        assert entry["tokens_per_second"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_reference_perplexity_is_the_interpreters(huggingface_folder: Folder, text: Path, tmp_path: Path) -> None:
    source = open_source(str(huggingface_folder(SPEC)), SourceOptions())
    windows = evaluation.cut(source, text.read_text(), 2, 32)
    yard = evaluation.yardstick(source, windows, tmp_path, lambda n: None)
    losses = []
    for ids in windows:
        scores = interpreter.logits(source.graph(), ids).astype(np.float64)
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        losses += [-np.log(p[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    assert yard.perplexity == pytest.approx(np.exp(np.mean(losses)))


def test_windows_are_contexts_of_their_own_with_the_start_token_first(huggingface_folder: Folder, text: Path) -> None:
    source = open_source(str(huggingface_folder(SPEC)), SourceOptions())
    windows = evaluation.cut(source, text.read_text(), 5, 20)
    assert [len(ids) for ids in windows] == [20] * 5
    assert source.tokenizer.add_bos
    assert {ids[0] for ids in windows} == {source.tokenizer.bos_id}
    assert len({tuple(ids) for ids in windows}) > 1


@needs_llama_cpp
def test_without_a_text_the_package_has_one(folder: Path, huggingface_folder: Folder) -> None:
    file = next(folder.glob("gguf/*F32.gguf"))
    outcome = run("eval", file, "--reference", huggingface_folder(SPEC), "--window", 64, "--format", "json")
    assert outcome.code == 0, outcome.stderr
    (found,) = outcome.json["artifacts"]
    assert found["kl"]["mean"] < 1e-6


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_a_text_that_is_too_short_is_refused(folder: Path, huggingface_folder: Folder, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    outcome = run("eval", folder, "--reference", huggingface_folder(SPEC), "--text", short)
    assert outcome.code == 2
    assert "longer" in outcome.stderr


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_text_that_cannot_be_read_is_refused(
    content: bytes | None, folder: Path, huggingface_folder: Folder, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    outcome = run("eval", folder, "--reference", huggingface_folder(SPEC), "--text", path)
    assert outcome.code == 2
    assert str(path) in outcome.error["error"]


def test_a_file_of_another_kind_is_refused(text: Path, huggingface_folder: Folder) -> None:
    outcome = run("eval", text, "--reference", huggingface_folder(SPEC), "--text", text)
    assert "not an artifact" in outcome.error["error"]
    assert ".gguf" in outcome.error["expected"]


@needs_llama_cpp
def test_another_models_artifact_is_refused(folder: Path, text: Path, huggingface_folder: Folder) -> None:
    other = huggingface_folder(SPEC.replace(vocab_size=SPEC.vocab_size + 32))
    file = next(folder.glob("gguf/*F32.gguf"))
    outcome = run("eval", file, "--reference", other, "--text", text, *WINDOWS)
    assert outcome.code == 2
    assert "not an artifact of the reference" in outcome.error["error"]
