"""Transformers.js in Node.js loads an exported folder as it is, and computes what the reference computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.tokenizer.probe import probe_texts
from tests.fixtures.downloads import llama3_tokenizer_model, smollm2_gguf
from tests.fixtures.models import TinySpec, write_meta
from tests.ir.graphs import token_ids
from tests.javascript.conftest import DTYPES, TINY, Repository, exported
from tests.javascript.transformers_js import Found, in_node

PROMPT = token_ids(TINY.vocab_size, 21)
N = 12


@pytest.fixture(scope="module")
def found(tiny: Repository) -> Found:
    return in_node(tiny.folder, dtypes=[*DTYPES], ids=PROMPT, n=N, texts=probe_texts())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_logits_are_the_references(dtype: str, tiny: Repository, found: Found) -> None:
    assert found.answers[dtype].positions == len(PROMPT), "num_logits_to_keep = 0 keeps them all"
    tiny.agrees(found.answers[dtype], DTYPES[dtype], PROMPT)


def test_wrong_logits_are_noticed(tiny: Repository, found: Found) -> None:
    """The negative control: another prompt's logits, and those of another variant under float32's gate."""
    with pytest.raises(AssertionError):
        tiny.agrees(found.answers["fp32"], DTYPES["fp32"], PROMPT[:-1])
    with pytest.raises(AssertionError):
        tiny.agrees(found.answers["q4"], DTYPES["fp32"], PROMPT)


def test_the_greedy_tokens_are_the_references(tiny: Repository, found: Found) -> None:
    generated = found.answers["fp32"].generated
    assert len(generated) == N or generated[-1] in tiny.source.tokenizer.stop_ids
    tiny.continues(generated, PROMPT)


def test_texts_become_the_same_tokens(tiny: Repository, found: Found) -> None:
    assert found.tokens == [tiny.source.tokenizer.encode(text, parse_special=True) for text in probe_texts()]


@pytest.mark.slow
def test_metas_own_tokenizer_becomes_one_that_it_understands(tmp_path: Path) -> None:
    """A Meta folder: no tokenizer.json there, no chat template, a tiktoken file with 128,000 pieces."""
    spec = TinySpec(dim=128, head_dim=32, vocab_size=128256, max_seq_len=512)
    model = write_meta(tmp_path / "meta", spec)
    (model / "tokenizer.model").write_bytes(llama3_tokenizer_model().read_bytes())
    repository = exported(model, tmp_path / "out", "q4")
    messages = [{"role": "user", "content": "Grüße! 1234567 🙂"}]
    prompt = repository.source.tokenizer.render_chat(messages)
    texts = [*probe_texts(), prompt]
    found = in_node(repository.folder, dtypes=["q4"], ids=[128000, 9906], n=4, texts=texts, messages=messages)
    assert found.tokens == [repository.source.tokenizer.encode(text, parse_special=True) for text in texts]
    assert found.answers["q4"].said is not None, "the chat template is where Transformers.js looks"


@pytest.mark.slow
def test_a_real_chat_model_answers_in_every_variant(tmp_path: Path) -> None:
    repository = exported(smollm2_gguf(), tmp_path / "out", *(quant.name for quant in DTYPES.values()))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    tokenizer = repository.source.tokenizer
    prompt = tokenizer.encode(tokenizer.render_chat(messages), parse_special=True)
    found = in_node(repository.folder, dtypes=[*DTYPES], ids=prompt, n=16, texts=[], messages=messages)
    for dtype, answer in found.answers.items():
        repository.agrees(answer, DTYPES[dtype], prompt)
        assert "Paris" in str(answer.said)
        assert answer.generated[-1] in tokenizer.stop_ids, "it stops by itself"
    repository.continues(found.answers["fp32"].generated, prompt)
