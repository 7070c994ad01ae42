"""Meta's tokenizer.model, judged by tiktoken, which Meta runs it with."""

from __future__ import annotations

import base64
import random
from itertools import pairwise
from pathlib import Path

import pytest

from exporter.errors import TokenizerError
from exporter.tokenizer import Tokenizer, TokenType, read_meta
from tests.tokenizer.hostile import hostile_texts

# Written out here and not imported: the oracle must not share a typo with the code.
META_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RUSSIAN = "Вчера вечером шёл дождь"


@pytest.fixture(scope="module")
def tiktoken_llama3(meta_folder, llama3):
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(meta_folder / "tokenizer.model"))
    return tiktoken.Encoding("llama3", pat_str=META_REGEX, mergeable_ranks=ranks, special_tokens=llama3.special_tokens)


def test_hostile_texts_get_the_ids_tiktoken_gives_them(llama3, tiktoken_llama3):
    texts = hostile_texts()
    assert len(texts) >= 500
    wrong = [text for text in texts if llama3.encode(text) != tiktoken_llama3.encode(text, disallowed_special=())]
    assert wrong == []


def test_special_tokens_in_a_text_are_tokens_only_on_request(llama3, tiktoken_llama3):
    text = "<|start_header_id|>user<|end_header_id|>\n\nHi <|eot_id|>"
    assert llama3.encode(text, parse_special=True) == tiktoken_llama3.encode(text, allowed_special="all")
    assert not set(llama3.encode(text)) & set(llama3.special_tokens.values())
    for text in hostile_texts():
        assert llama3.encode(text, parse_special=True) == tiktoken_llama3.encode(text, allowed_special="all")


def test_decoding_gives_the_text_back(llama3):
    assert [text for text in hostile_texts() if llama3.decode(llama3.encode(text)) != text] == []


def test_bytes_that_are_no_text_decode_as_tiktoken_decodes_them(llama3, tiktoken_llama3):
    source = random.Random(11)
    for _ in range(500):
        ids = source.choices(range(llama3.vocab_size), k=source.randint(1, 9))
        assert llama3.decode(ids) == tiktoken_llama3.decode(ids, errors="replace")


def test_the_bos_token_is_added_on_request(llama3):
    assert llama3.add_bos
    assert llama3.encode("Hi", add_bos=True) == [128000, *llama3.encode("Hi")]


def test_special_tokens_have_their_published_names(llama3):
    """Ids and names from tokenizer_config.json of Llama 3.1 and 3.2."""
    published = {
        128000: "<|begin_of_text|>",
        128001: "<|end_of_text|>",
        128002: "<|reserved_special_token_0|>",
        128003: "<|reserved_special_token_1|>",
        128004: "<|finetune_right_pad_id|>",
        128005: "<|reserved_special_token_2|>",
        128006: "<|start_header_id|>",
        128007: "<|end_header_id|>",
        128008: "<|eom_id|>",
        128009: "<|eot_id|>",
        128010: "<|python_tag|>",
        128011: "<|reserved_special_token_3|>",
        128255: "<|reserved_special_token_247|>",
    }
    assert {token_id: llama3.pieces[token_id] for token_id in published} == published
    assert list(llama3.special_tokens.values()) == list(range(128000, 128256))
    assert set(llama3.token_types[128000:]) == {TokenType.CONTROL}


def test_generation_stops_at_the_end_of_text_message_and_turn(llama3):
    assert llama3.stop_ids == (128001, 128008, 128009)
    assert (llama3.bos_id, llama3.eos_id, llama3.pad_id) == (128000, 128001, 128004)


def test_the_merges_are_those_of_the_published_tokenizer_json(llama3, meta_folder):
    """transformers converts the same file; its merge list is what Hugging Face ships."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    converter = TikTokenConverter(vocab_file=str(meta_folder / "tokenizer.model"), pattern=META_REGEX)
    _, merges = converter.extract_vocab_merges_from_model(converter.vocab_file)
    assert len(merges) == 280_147
    assert llama3.merges == tuple(f"{left} {right}" for left, right in merges)


def test_one_merge_per_piece_would_be_wrong(llama3, tiktoken_llama3):
    """Negative control: the plausible shorter merge list does not survive the hostile texts."""
    shorter = llama3.replace(merges=tuple(_one_merge_per_piece(llama3)))
    assert len(shorter.merges) > 127_000
    texts = hostile_texts()
    wrong = [text for text in texts if shorter.encode(text) != tiktoken_llama3.encode(text, disallowed_special=())]
    assert any(text.startswith(RUSSIAN) for text in wrong)


def _one_merge_per_piece(tokenizer: Tokenizer):
    ids = tokenizer.ids_of(TokenType.NORMAL)
    for piece, own_rank in ids.items():
        parts = list(piece)
        while len(parts) > 2:
            ranks = (ids.get(left + right, own_rank) for left, right in pairwise(parts))
            rank, at = min((rank, i) for i, rank in enumerate(ranks))
            if rank >= own_rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield " ".join(parts)


def test_a_truncated_file_is_refused(meta_folder, tmp_path):
    whole = (meta_folder / "tokenizer.model").read_bytes()
    _refused(tmp_path, whole[: len(whole) // 2].rpartition(b"\n")[0].replace(b" 17\n", b" 18\n"), "not a whole")


def test_a_file_cut_inside_a_line_is_refused(tmp_path):
    _refused(tmp_path, base64.b64encode(b"a") + b" 0\n" + base64.b64encode(b"b"), "no tiktoken")


def test_llama_2s_sentencepiece_file_is_refused_by_its_name(tmp_path):
    error = _refused(tmp_path, b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c", "no tiktoken")
    assert "Llama 2" in str(error.hint)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="cannot read") as caught:
        read_meta(tmp_path)
    assert caught.value.hint


def _refused(folder: Path, content: bytes, message: str) -> TokenizerError:
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        read_meta(folder)
    assert caught.value.expected and caught.value.found and caught.value.hint
    return caught.value
