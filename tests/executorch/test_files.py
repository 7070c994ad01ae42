"""What lies beside a program: tokenizers, the runtime's pins, and how many positions there are."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import files, wheel, worker
from exporter.targets.executorch.lower import MAX_TOKENS
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.runtime import ExecuTorch
from exporter.targets.executorch.target import EXECUTORCH
from tests.executorch.support import SPEC, Folder, export
from tests.executorch.test_pipeline import artifacts
from tests.executorch.test_pipeline import export as export_in_full
from tests.fixtures.downloads import llama3_tokenizer_model
from tests.fixtures.models import META_SPEC, write_huggingface, write_meta
from tests.pipeline.harness import run

LONG = SPEC.replace(max_seq_len=8192)


def test_the_pins_are_those_of_the_wheel(huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(SPEC), tmp_path)
    found = json.loads((exported.path.parent / "runtime.json").read_text())
    tokenizer = exported.source.tokenizer
    assert (found["runtime"], found["version"]) == (wheel.PACKAGE, wheel.version())
    assert found["torch"] == version("torch").split("+")[0]
    assert all(wheel.RELEASE in coordinate for coordinate in found["packages"].values())
    assert found["context_length"] == SPEC.max_seq_len
    assert (found["bos_id"], found["stop_ids"]) == (tokenizer.bos_id, list(tokenizer.stop_ids))
    assert len(found["special_tokens"]) == 256


def test_the_pins_name_every_program_that_is_there(tmp_path: Path) -> None:
    """Those of an earlier run too."""
    model, out = write_huggingface(tmp_path / "tiny", SPEC), tmp_path / "out"
    export_in_full(model, out, "int4", options=("--no-verify", "--split-weights"))
    outcome = export_in_full(model, out, "int8", "int4-e4g32", "f32-portable", options=("--no-verify",))
    assert outcome.code == 0, outcome.stderr
    found = json.loads((out / "executorch/runtime.json").read_text())["programs"]
    assert found == [
        {"program": "tiny-F32-PORTABLE.pte", "data": [], "quant": "f32-portable", "backend": "portable"},
        {"program": "tiny-INT4.pte", "data": ["tiny-INT4.ptd"], "quant": "int4", "backend": "xnnpack"},
        {"program": "tiny-INT4-E4G32.pte", "data": [], "quant": "int4-e4g32", "backend": "xnnpack"},
        {"program": "tiny-INT8.pte", "data": [], "quant": "int8", "backend": "xnnpack"},
    ]
    assert {file for p in found for file in (p["program"], *p["data"])} == {
        path.name for path in (out / "executorch").glob("*.pt?")
    }


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
    pins = json.loads(EXECUTORCH.shared_files(source.subject(), {"f32": plan.files})["executorch/runtime.json"])
    assert pins["context_length"] == held


@pytest.mark.parametrize("options", [("--no-verify",), ("--dry-run",), ("--dry-run", "--format", "json")])
def test_a_context_that_was_cut_is_said(options: tuple[str, ...], huggingface_folder: Folder, tmp_path: Path) -> None:
    outcome = export_in_full(huggingface_folder(LONG), tmp_path / "out", "f32", "int8", options=options)
    (note,) = (line for line in outcome.stderr.splitlines() if line.startswith("note: executorch: "))
    assert "the cache holds 2048 of the model's 8192 positions" in note
    assert note.endswith("; --max-seq-len asks for another number")


@pytest.mark.parametrize("asked", [1024, 8192])
def test_what_a_loaded_program_takes_is_said(asked: int, huggingface_folder: Folder, tmp_path: Path) -> None:
    source = open_source(str(huggingface_folder(LONG)), SourceOptions(max_seq_len=asked))
    plan = EXECUTORCH.plan(source.subject(), "f32", Options())
    plan.write(tmp_path, lambda *_: None)
    taken = sum(PteFile(tmp_path / plan.files[0].path).forward["non_const_buffer_sizes"])
    cache = 2 * 4 * SPEC.n_layers * SPEC.n_kv_heads * SPEC.head_dim * asked
    assert cache < taken < cache + MAX_TOKENS * 4 * 16 * SPEC.dim, "what 512 tokens need, whatever the context"
    assert list(plan.notes) == [
        f"the cache holds {asked} positions; with it, a loaded program takes {taken / 1e6:.1f} MB beside its weights",
    ]


@pytest.mark.slow
def test_a_longer_context_is_used_to_its_end(huggingface_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = export_in_full(huggingface_folder(LONG), out, "f32", options=("--max-seq-len", 2500))
    assert outcome.code == 0, outcome.stderr
    assert artifacts(out)["f32"]["parity"]["verdict"] == "pass"
    (path,) = out.glob("executorch/*.pte")
    ids = [int(i) for i in np.random.default_rng(0).integers(0, SPEC.vocab_size, 2500)]
    source = open_source(str(huggingface_folder(LONG)), SourceOptions())
    expected = interpreter.logits(source.graph(), ids)[-1]
    found = worker.prefill(worker.open_program(str(path)), ids)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_a_text_longer_than_the_context_is_refused(huggingface_folder: Folder, tmp_path: Path) -> None:
    runtime = ExecuTorch(export(huggingface_folder(SPEC), tmp_path).path)
    with pytest.raises(TargetError, match="longer than the program's cache") as refusal:
        runtime.logits([1] * (SPEC.max_seq_len + 1))
    assert refusal.value.expected == f"at most {SPEC.max_seq_len} tokens"
    assert "--max-seq-len" in str(refusal.value.hint)


@pytest.mark.slow
def test_the_runner_cuts_a_long_prompt_into_calls(huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(SPEC.replace(max_seq_len=2 * MAX_TOKENS)), tmp_path)
    tokenizer, model = exported.source.tokenizer, exported.source.graph()

    def answer(prompt: str) -> list[str]:
        ids = tokenizer.encode(prompt, parse_special=True)
        assert MAX_TOKENS < len(ids) < 2 * MAX_TOKENS
        found: list[int] = []
        for _ in range(3):
            found.append(int(interpreter.logits(model, [*ids, *found])[-1].argmax()))
        return [tokenizer.decode([token]) for token in found]

    # The binding hands over token by token, and fails where one is not whole characters.
    prompts = (f"{start}, and so on" * 100 for start in tokenizer.special_tokens)
    prompt, said = next((p, a) for p in prompts if "\ufffd" not in "".join(a := answer(p)))
    assert ExecuTorch(exported.path).generate(prompt, 3) == "".join(said)


@pytest.mark.slow
def test_the_runner_refuses_a_prompt_longer_than_the_context(huggingface_folder: Folder, tmp_path: Path) -> None:
    runtime = ExecuTorch(export(huggingface_folder(SPEC), tmp_path).path)
    with pytest.raises(TargetError, match="ExecuTorch fails") as refusal:
        runtime.generate("<|eot_id|>" * SPEC.max_seq_len, 1)
    assert f"num_prompt_tokens {SPEC.max_seq_len} >= max_context_len {SPEC.max_seq_len}" in str(refusal.value.found)
