"""What lies beside a program: tokenizers, the runtime's pins, and how many positions there are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import files, wheel
from exporter.targets.executorch.runtime import ExecuTorch
from exporter.targets.executorch.target import EXECUTORCH
from tests.executorch.support import SPEC, Folder, export
from tests.executorch.test_pipeline import artifacts
from tests.executorch.test_pipeline import export as export_in_full
from tests.fixtures.downloads import llama3_tokenizer_model
from tests.fixtures.models import META_SPEC, write_meta
from tests.pipeline.harness import run

LONG = SPEC.replace(max_seq_len=8192)


def test_the_pins_are_those_of_the_wheel(huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(SPEC), tmp_path)
    found = json.loads((exported.path.parent / "runtime.json").read_text())
    tokenizer = exported.source.tokenizer
    assert (found["runtime"], found["version"]) == (wheel.PACKAGE, wheel.version())
    assert all(wheel.RELEASE in coordinate for coordinate in found["packages"].values())
    assert found["context_length"] == SPEC.max_seq_len
    assert (found["bos_id"], found["stop_ids"]) == (tokenizer.bos_id, list(tokenizer.stop_ids))
    assert len(found["special_tokens"]) == 256


def test_metas_tokenizer_is_copied_byte_for_byte(tmp_path: Path) -> None:
    model, out = write_meta(tmp_path / "model", META_SPEC), tmp_path / "out"
    outcome = export_in_full(model, out, "f32", options=("--no-verify",))
    assert outcome.code == 0, outcome.stderr
    assert (out / "executorch/tokenizer.model").read_bytes() == (model / "tokenizer.model").read_bytes()
    shared = json.loads((out / "manifest.json").read_text())["shared_files"]
    assert "executorch/tokenizer.model" in {file["path"] for file in shared}
    (out / "executorch/tokenizer.model").write_bytes(b"another")
    outcome = run("verify", out)
    assert outcome.code == 2
    assert "not the file that was exported" in outcome.error["error"]


def test_other_sources_have_no_such_file(huggingface_folder: Folder, tmp_path: Path) -> None:
    assert not (export(huggingface_folder(SPEC), tmp_path).path.parent / "tokenizer.model").exists()


@pytest.mark.slow
def test_the_runner_takes_metas_real_tokenizer_as_well_as_what_was_made_of_it(tmp_path: Path) -> None:
    """A tiny model with Llama 3's vocabulary says the same with both."""
    spec = META_SPEC.replace(vocab_size=128256, max_seq_len=256, tied=True)
    model = write_meta(tmp_path / "model", spec)
    (model / "tokenizer.model").write_bytes(llama3_tokenizer_model().read_bytes())
    path = export(model, tmp_path / "out").path
    source = open_source(str(model), SourceOptions())
    prompt = source.tokenizer.render_chat([{"role": "user", "content": "Grüße, 1234 plums?"}])
    ids = source.tokenizer.encode(prompt, parse_special=True)
    expected = []
    for _ in range(4):
        expected.append(int(interpreter.logits(source.graph(), [*ids, *expected])[-1].argmax()))
    runtime = ExecuTorch(path)
    for name in ("tokenizer.model", "tokenizer.json"):
        assert runtime.generate(prompt, 4, tokenizer=name) == source.tokenizer.decode(expected), name


# --- Context --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "asked", "held"), [(8192, None, 2048), (256, None, 256), (8192, 4096, 4096), (8192, 8192, 8192)]
)
def test_the_cache_holds_what_was_asked_for_or_a_phones_worth(
    own: int, asked: int | None, held: int, huggingface_folder: Folder
) -> None:
    source = open_source(str(huggingface_folder(SPEC.replace(max_seq_len=own))), SourceOptions(max_seq_len=asked))
    plan = EXECUTORCH.plan(source.subject(), "f32", Options())
    assert files.context_length(source.subject()) == held
    assert EXECUTORCH.shared_files(source.subject(), {"f32": plan.files})
    assert bool(plan.notes) == (held < own and asked is None)


def test_a_context_that_was_cut_is_said(huggingface_folder: Folder, tmp_path: Path) -> None:
    outcome = export_in_full(huggingface_folder(LONG), tmp_path / "out", "f32", options=("--no-verify",))
    assert "the cache holds 2048 of the model's 8192 positions and takes 2 MB; --max-seq-len" in outcome.stderr


@pytest.mark.slow
def test_a_longer_context_is_used_to_its_end(huggingface_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = export_in_full(huggingface_folder(LONG), out, "f32", options=("--max-seq-len", 2500))
    assert outcome.code == 0, outcome.stderr
    assert artifacts(out)["f32"]["parity"]["verdict"] == "pass"
    runtime = ExecuTorch(next(out.glob("executorch/*.pte")))
    ids = [int(i) for i in np.random.default_rng(0).integers(0, SPEC.vocab_size, 2500)]
    source = open_source(str(huggingface_folder(LONG)), SourceOptions())
    expected = interpreter.logits(source.graph(), ids)[-1]
    assert np.abs(runtime.logits(ids, prefill=1)[-1] - expected).max() < 1e-4 * expected.std()


def test_a_text_longer_than_the_context_is_refused(huggingface_folder: Folder, tmp_path: Path) -> None:
    runtime = ExecuTorch(export(huggingface_folder(SPEC), tmp_path).path)
    with pytest.raises(TargetError, match="longer than the program's cache") as refusal:
        runtime.logits([1] * (SPEC.max_seq_len + 1))
    assert refusal.value.expected == f"at most {SPEC.max_seq_len} tokens"
    assert "--max-seq-len" in str(refusal.value.hint)
