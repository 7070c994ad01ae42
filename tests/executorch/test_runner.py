"""The C++ runner that apps link, with its own tokenizer, on a real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.ir import interpreter
from exporter.targets.executorch.files import tokenizer_json
from exporter.targets.executorch.runtime import ExecuTorch
from exporter.tokenizer.probe import probe_texts
from tests.executorch.support import Export, export
from tests.fixtures.downloads import smollm2_gguf

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smollm2")


@pytest.fixture(scope="module")
def exact(folder: Path) -> Export:
    return export(smollm2_gguf(), folder)


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["int4", "int8"])
def test_it_knows_the_capital_of_france_and_stops(quant: str, folder: Path) -> None:
    exported = export(smollm2_gguf(), folder, quant)
    prompt = exported.source.tokenizer.render_chat(MESSAGES)
    said = ExecuTorch(exported.path).generate(prompt, 60)
    assert "Paris" in said
    assert said.endswith("<|im_end|>")


@pytest.mark.slow
def test_its_greedy_tokens_are_the_references(exact: Export) -> None:
    tokenizer = exact.source.tokenizer
    prompt = tokenizer.render_chat(MESSAGES)
    ids = tokenizer.encode(prompt, parse_special=True)
    model, expected = exact.source.graph(), []
    while not expected or expected[-1] not in tokenizer.stop_ids:
        expected.append(int(interpreter.logits(model, [*ids, *expected])[-1].argmax()))
    said = ExecuTorch(exact.path).generate(prompt, 60)
    assert tokenizer.encode(said, parse_special=True) == expected


@pytest.mark.slow
def test_its_tokenizer_cuts_hostile_texts_as_ours(exact: Export) -> None:
    """But for control characters, which its regexes drop, and names of special tokens, which it always recognises."""
    from pytorch_tokenizers import CppHFTokenizer

    ours = exact.source.tokenizer
    theirs = CppHFTokenizer()
    theirs.load(str(exact.path.parent / "tokenizer.json"))
    texts = [text for text in probe_texts() if text and not any(ord(c) < 32 and c not in "\t\n\r" for c in text)]
    assert len(texts) > 200
    for text in texts:
        assert theirs.encode(text, 0, 0) == ours.encode(text, parse_special=True), text


@pytest.mark.slow
def test_that_tokenizer_loses_text_at_a_plain_split(exact: Export, tmp_path: Path) -> None:
    """Why ``files.tokenizer_json`` spells digits another way; the day this fails, it need not."""
    import json

    from pytorch_tokenizers import CppHFTokenizer

    document = tokenizer_json(exact.source.tokenizer)
    chain = document["pre_tokenizer"]["pretokenizers"]
    assert chain[0]["type"] == "Digits"
    chain[0] = {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    theirs = CppHFTokenizer()
    theirs.load(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("Hello world", 0, 0) == []
