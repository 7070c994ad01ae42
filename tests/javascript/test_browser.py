"""Transformers.js in a real browser: a page of this machine's own loads the folder and asks nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.tokenizer.probe import probe_texts
from tests.fixtures.downloads import smollm2_gguf
from tests.ir.graphs import token_ids
from tests.javascript.conftest import DTYPES, TINY, Repository, exported
from tests.javascript.transformers_js import Found, in_browser, serving

pytestmark = pytest.mark.slow

PROMPT = token_ids(TINY.vocab_size, 21)
N = 12


@pytest.fixture(scope="module")
def found(tiny: Repository) -> Found:
    with serving(tiny.out) as url:
        return in_browser(url, device="wasm", dtypes=[*DTYPES], ids=PROMPT, n=N, texts=probe_texts())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_logits_are_the_references(dtype: str, tiny: Repository, found: Found) -> None:
    tiny.agrees(found.answers[dtype], DTYPES[dtype], PROMPT)


def test_wrong_logits_are_noticed(tiny: Repository, found: Found) -> None:
    with pytest.raises(AssertionError):
        tiny.agrees(found.answers["fp32"], DTYPES["fp32"], PROMPT[:-1])


def test_the_greedy_tokens_are_the_references(tiny: Repository, found: Found) -> None:
    tiny.continues(found.answers["fp32"].generated, PROMPT)


def test_texts_become_the_same_tokens(tiny: Repository, found: Found) -> None:
    assert found.tokens == [tiny.source.tokenizer.encode(text, parse_special=True) for text in probe_texts()]


def test_no_request_leaves_the_machine(found: Found) -> None:
    assert found.foreign == ()


@pytest.mark.parametrize("dtype", ["fp32", "q4", "q8"])
def test_webgpu_computes_the_same(dtype: str, tiny: Repository) -> None:
    """On SwiftShader, a graphics processor in software: a smoke test of the graph, not of any hardware."""
    with serving(tiny.out) as url:
        found = in_browser(url, device="webgpu", dtypes=[dtype], ids=PROMPT, n=4, texts=[])
    tiny.agrees(found.answers[dtype], DTYPES[dtype], PROMPT)
    if dtype == "fp32":
        tiny.continues(found.answers[dtype].generated, PROMPT)


def test_a_real_chat_model_answers(tmp_path: Path) -> None:
    repository = exported(smollm2_gguf(), tmp_path / "out", "f32", "q4")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    tokenizer = repository.source.tokenizer
    prompt = tokenizer.encode(tokenizer.render_chat(messages), parse_special=True)
    with serving(repository.out) as url:
        found = in_browser(url, device="wasm", dtypes=["fp32", "q4"], ids=prompt, n=16, texts=[], messages=messages)
    for dtype, answer in found.answers.items():
        repository.agrees(answer, DTYPES[dtype], prompt)
        assert "Paris" in str(answer.said)
        assert answer.generated[-1] in tokenizer.stop_ids
    repository.continues(found.answers["fp32"].generated, prompt)
    assert found.foreign == ()
