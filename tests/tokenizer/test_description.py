"""The parts that are pure: alphabet, pre-tokenizer table, probe, stop tokens."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import TokenizerError
from exporter.tokenizer.byte_level import ALPHABET, to_bytes, to_piece
from exporter.tokenizer.merges import merges_of_scores, scores_of_merges
from exporter.tokenizer.pretokenizers import PRE_TOKENIZERS, by_name
from exporter.tokenizer.probe import probe_texts
from exporter.tokenizer.stop_tokens import stop_ids


@given(st.binary())
def test_the_byte_alphabet_loses_nothing(data):
    assert to_bytes(to_piece(data)) == data


def test_the_byte_alphabet_is_that_of_tokenizers():
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(ALPHABET) == sorted(ByteLevel.alphabet())
    assert to_piece(" né\n".encode()) == "ĠnÃ©Ċ"


@given(st.lists(st.text("ab", min_size=1, max_size=5), unique=True), st.data())
def test_scores_made_from_merges_give_the_same_merges(pieces, data):
    ids = {piece: i for i, piece in enumerate(pieces)}
    scores = data.draw(st.lists(st.integers(-3, 0), min_size=len(pieces), max_size=len(pieces)))
    merges = merges_of_scores(ids, scores)
    assert merges_of_scores(ids, scores_of_merges(pieces, merges)) == merges


def test_pre_tokenizer_names_are_unique():
    names = [entry.name for entry in PRE_TOKENIZERS]
    assert len(set(names)) == len(names)
    assert all(by_name(name).name == name for name in names)


@pytest.mark.parametrize("entry", PRE_TOKENIZERS, ids=lambda entry: entry.name)
def test_every_pre_tokenizer_keeps_every_character(entry):
    """A regex that skipped text would lose it; gaps between matches must be words as well."""
    import regex

    for text in probe_texts():
        words = [text]
        for pattern in entry.regexes:
            words = [part for word in words for part in regex.split(f"({pattern})", word) if part]
        assert "".join(words) == text


def test_an_unknown_pre_tokenizer_is_refused():
    with pytest.raises(TokenizerError, match="unknown") as caught:
        by_name("bloom")
    assert caught.value.found == "'bloom'"


def test_stop_tokens_are_named_or_declared():
    special = {"<|eot_id|>": 9, "<|eom_id|>": 8, "<|start_header_id|>": 6}
    assert stop_ids(special, [1, None, 9]) == (1, 8, 9)


def test_the_probe_is_the_same_in_every_run():
    code = (
        "import zlib; from exporter.tokenizer.probe import probe_texts; print(zlib.crc32(repr(probe_texts()).encode()))"
    )
    runs = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(runs) == 1
    assert len(set(probe_texts())) == len(probe_texts()) >= 200


def test_importing_the_tokenizer_loads_nothing_heavy():
    heavy = ("torch", "tokenizers", "tiktoken", "gguf", "numpy", "transformers", "jinja2", "numba")
    code = f"import sys, exporter.tokenizer; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
