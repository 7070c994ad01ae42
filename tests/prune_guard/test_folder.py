"""A pruned model as a folder: opened again it is the same model, and every target that can hold it ships it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from exporter.artifact import staging
from exporter.errors import CheckpointError, OutputError
from exporter.ir import interpreter
from exporter.ir.build import config_of
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.folder import require_free, save
from exporter.prune_guard.vocabulary import narrow_head
from exporter.prune_guard.width import narrow_feed_forward
from exporter.source import Source, SourceOptions, open_source
from tests.fixtures.models import LLAMA3_SCALING, META_SPEC, TinySpec, write_gguf, write_huggingface
from tests.ir.graphs import token_ids
from tests.pipeline.harness import manifest, run
from tests.prune_guard.support import KEPT, MEMORY, saved

SPEC = META_SPEC.replace(n_layers=3, rope_scaling=LLAMA3_SCALING, max_seq_len=131072)
IDS = token_ids(SPEC.vocab_size, 40)


def pruned(source: Source, *, narrow: bool) -> ir.Model:
    model = source.graph()
    narrow_feed_forward(model, [np.arange(0, 64) + i for i in range(3)])
    drop_blocks(model, [1])
    return narrow_head(model, KEPT) if narrow else model


def reopened(folder: Path) -> Source:
    return open_source(str(folder), SourceOptions())


@pytest.mark.parametrize("narrow", [True, False], ids=["some tokens", "all tokens"])
@pytest.mark.parametrize("spec", [SPEC, SPEC.replace(tied=True, dtype="float16")], ids=["untied", "tied"])
def test_a_folder_that_was_saved_is_the_model_that_was_pruned(tmp_path: Path, spec: TinySpec, narrow: bool) -> None:
    source = open_source(str(write_huggingface(tmp_path / "source", spec)), SourceOptions())
    model = pruned(source, narrow=narrow)
    again = reopened(saved(tmp_path / "pruned", source, model))
    assert again.config == config_of(model)
    assert again.tokenizer == source.tokenizer
    assert np.array_equal(interpreter.logits(again.graph(), IDS), interpreter.logits(model, IDS))


def test_a_quantized_source_is_saved_as_what_it_decodes_to(tmp_path: Path) -> None:
    source = open_source(str(write_gguf(tmp_path / "source.gguf", SPEC, "Q8_0")), SourceOptions())
    model = pruned(source, narrow=False)
    again = reopened(saved(tmp_path / "pruned", source, model))
    assert np.array_equal(interpreter.logits(again.graph(), IDS), interpreter.logits(model, IDS))


def test_a_model_with_all_tokens_is_a_llama_to_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    source = open_source(str(write_huggingface(tmp_path / "source", SPEC)), SourceOptions())
    model = pruned(source, narrow=False)
    folder = saved(tmp_path / "pruned", source, model)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    found = interpreter.logits(model, IDS)
    assert np.abs(found - expected).max() < 1e-5 * expected.std()


def test_the_folder_remembers_licence_recipe_and_where_it_came_from(tmp_path: Path) -> None:
    source_folder = write_huggingface(tmp_path / "source", SPEC)
    (source_folder / "README.md").write_text("---\nlicense: llama3.2\nlanguage: [en, de]\n---\n")
    source = open_source(str(source_folder), SourceOptions())
    folder = saved(tmp_path / "pruned", source, pruned(source, narrow=True))
    checkpoint = reopened(folder).checkpoint
    assert (checkpoint.info.license, checkpoint.info.languages) == ("llama3.2", ("en", "de"))
    assert checkpoint.quants == MEMORY["quants"]
    assert "pruned from tiny by recipe test" in checkpoint.notes
    assert folder / "prune.json" in checkpoint.files
    document = json.loads((folder / "prune.json").read_text())
    assert document["config"]["kept_tokens"] == list(KEPT)


# --- Targets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("narrow")
    source = open_source(str(write_huggingface(root / "source", SPEC)), SourceOptions())
    return saved(root / "pruned", source, pruned(source, narrow=True))


@pytest.mark.parametrize("target", ["gguf", "onnx", pytest.param("executorch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("quant", ["f32", "int8", "int4"])
def test_every_target_holds_a_narrow_head(narrow_folder: Path, tmp_path: Path, target: str, quant: str) -> None:
    outcome = run("export", narrow_folder, "--target", target, "--quant", quant, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    (artifact,) = manifest(tmp_path / "out")["artifacts"]
    checks = {check["name"]: check for check in artifact["parity"]["checks"]}
    assert checks["pruned tokens"]["passed"]
    assert artifact["parity"]["faithfulness"]["mean_kl"] < 1e-2


def test_export_without_quant_takes_the_recipes(narrow_folder: Path, tmp_path: Path) -> None:
    targets = [part for target in MEMORY["quants"] for part in ("--target", target)]
    outcome = run("export", narrow_folder, *targets, "--dry-run", "--out", tmp_path / "out", "--format", "json")
    found = {a["target"]: a["quant"] for a in outcome.json["artifacts"]}
    assert found == MEMORY["quants"]


def test_a_gguf_of_a_narrow_model_says_only_the_best_token(narrow_folder: Path, tmp_path: Path) -> None:
    run("export", narrow_folder, "--target", "gguf", "--no-verify", "--out", tmp_path / "out")
    assert "PARAMETER temperature 0" in (tmp_path / "out/gguf/Modelfile").read_text()


# --- Refusals ----------------------------------------------------------------------------------------------------


def damaged(folder: Path, tmp_path: Path, name: str, **changes: Any) -> Path:
    copy = tmp_path / "damaged"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    document = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({**document, **changes}))
    return copy


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"kept_tokens": [5, 3]}, "impossible model"),
        ("config.json", {"kept_tokens": [3, 9999]}, "impossible model"),
        ("config.json", {"kept_tokens": "all"}, "wrong type"),
        ("config.json", {"kept_tokens": [3, "x"]}, "wrong type"),
        ("config.json", {"kept_tokens": [3, 4]}, "wrong shape"),
        ("prune.json", {"schema": 99}, "another schema"),
        ("prune.json", {"quants": {"gguf": 4}}, "wrong type"),
        ("prune.json", {"source": {}}, "model is missing"),
    ],
)
def test_a_damaged_folder_is_refused(
    narrow_folder: Path, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_source(str(damaged(narrow_folder, tmp_path, name, **changes)), SourceOptions())


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    require_free(tmp_path / "absent", force=False)
    (tmp_path / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="not empty"):
            require_free(tmp_path, force=force)
    (tmp_path / "prune.json").write_text("{}")
    with pytest.raises(OutputError, match="holds a pruned model"):
        require_free(tmp_path, force=False)
    require_free(tmp_path, force=True)


def test_nothing_is_left_of_a_save_that_fails(tmp_path: Path) -> None:
    source = open_source(str(write_huggingface(tmp_path / "source", SPEC)), SourceOptions())
    model, out = source.graph(), tmp_path / "pruned"

    def stop(n: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(out, model, source.tokenizer, source.checkpoint.info, MEMORY, stop, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    with staging(out):
        pass  # and no lock
