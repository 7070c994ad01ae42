"""onnxruntime-genai loads the very folder that Transformers.js loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporter.ir import interpreter
from tests.fixtures.downloads import smollm2_gguf
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import token_ids
from tests.onnx.support import SPEC, Export, export

genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")

Folder = Callable[[TinySpec], Path]


def greedy(folder: Path, ids: list[int], n: int) -> list[int]:
    """Up to ``n`` tokens after ``ids``."""
    model = genai.Model(str(folder))
    generator = genai.Generator(model, genai.GeneratorParams(model))
    generator.append_tokens(np.array(ids, np.int32))
    made: list[int] = []
    while len(made) < n and not generator.is_done():
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    return made


@pytest.fixture(scope="module")
def tiny(huggingface_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Export:
    spec = SPEC.replace(tied=True, rope_scaling=LLAMA3_SCALING, max_seq_len=131072)
    return export(huggingface_folder(spec), tmp_path_factory.mktemp("genai"))


def test_it_generates_the_references_tokens(tiny: Export) -> None:
    prompt = token_ids(SPEC.vocab_size, 15)
    made = greedy(tiny.folder, prompt, 12)
    scores = interpreter.logits(tiny.source.graph(), [*prompt, *made])
    assert scores[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == made


def test_it_renders_the_chat_template(tiny: Export) -> None:
    tokenizer = genai.Tokenizer(genai.Model(str(tiny.folder)))
    rendered = tokenizer.apply_chat_template('[{"role": "user", "content": "Hi"}]', add_generation_prompt=True)
    assert rendered == tiny.source.tokenizer.render_chat([{"role": "user", "content": "Hi"}])


@pytest.mark.slow
def test_a_real_chat_model_answers_and_stops(tmp_path: Path) -> None:
    exported = export(smollm2_gguf(), tmp_path, "int4")
    tokenizer = exported.source.tokenizer
    prompt = tokenizer.render_chat([{"role": "user", "content": "What is the capital of France?"}])
    ids = tokenizer.encode(prompt, parse_special=True)
    found = genai.Tokenizer(genai.Model(str(exported.folder))).encode(prompt)
    assert [int(i) for i in found] == ids
    made = greedy(exported.folder, ids, 32)
    assert "Paris" in tokenizer.decode(made)
    assert made[-1] in tokenizer.stop_ids
