"""Every runtime continues a prompt as the reference does, and ends where a generation ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import targets
from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options, Runtime
from tests.fixtures.models import TinySpec
from tests.ir.graphs import token_ids
from tests.pipeline.conftest import needs_llama_cpp

SPEC = TinySpec(head_dim=16, max_seq_len=64)
Folder = Callable[[TinySpec], Path]


def loaded(target: str, checkpoint: Path, out: Path) -> Runtime:
    subject = open_source(str(checkpoint), SourceOptions()).subject()
    plan = targets.get(target).plan(subject, "f32", Options())
    plan.write(out, lambda *_: None)
    for path, text in targets.get(target).shared_files(subject, {"f32": plan.files}).items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(text.encode() if isinstance(text, str) else text)
    return targets.get(target).load([out / file.path for file in plan.files])


@needs_llama_cpp
@pytest.mark.parametrize("target", ["gguf", "onnx", "executorch"])
def test_greedy_tokens_are_the_references(target: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    source = open_source(str(huggingface_folder(SPEC)), SourceOptions())
    prompt, expected = token_ids(SPEC.vocab_size, 9), []
    for _ in range(8):
        expected.append(int(interpreter.logits(source.graph(), [*prompt, *expected])[-1].argmax()))
    runtime = loaded(target, huggingface_folder(SPEC), tmp_path)
    # The tiny model rarely ends anything: the third of its own words must do.
    stop = expected[3]
    before = expected[: expected.index(stop)]
    assert runtime.greedy(prompt, 8) == expected
    assert runtime.greedy(prompt, 2) == expected[:2]
    if target != "gguf":  # llama.cpp knows what ends a generation from the file
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(runtime), "eog_ids", lambda self: [stop])
            assert runtime.greedy(prompt, 8) == before


def test_executorch_refuses_what_its_cache_cannot_hold(huggingface_folder: Folder, tmp_path: Path) -> None:
    runtime = loaded("executorch", huggingface_folder(SPEC), tmp_path)
    with pytest.raises(TargetError, match="longer than the program's cache"):
        runtime.greedy(token_ids(SPEC.vocab_size, 60), 5)
