"""GGUF vocabularies, in and out."""

from __future__ import annotations

import gguf
import pytest

from exporter.errors import TokenizerError
from exporter.tokenizer import Tokenizer, TokenType, from_gguf, to_gguf, write_gguf_vocab


def test_smollm2_is_read_from_its_gguf(smollm2):
    assert (smollm2.kind, smollm2.pre, smollm2.vocab_size) == ("bpe", "smollm", 49152)
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.pad_id, smollm2.unk_id) == (1, 2, 2, 0)
    assert smollm2.stop_ids == (0, 2)
    assert not smollm2.add_bos
    assert smollm2.special_tokens["<|im_end|>"] == 2
    assert smollm2.render_chat([{"role": "user", "content": "Hi"}]).endswith("<|im_start|>assistant\n")


def test_writing_and_reading_gives_the_same_tokenizer(smollm2, llama3):
    for tokenizer in (smollm2, llama3):
        assert from_gguf({field.key: field.value for field in to_gguf(tokenizer)}) == tokenizer


def test_every_key_of_the_original_file_is_written_with_its_value(smollm2, smollm2_fields):
    written = {field.key: field.value for field in to_gguf(smollm2)}
    assert {key: written[key] for key in smollm2_fields} == smollm2_fields
    assert set(written) - set(smollm2_fields) == {"tokenizer.ggml.eot_token_id"}


def test_the_stop_keys_leave_llama_cpp_no_choice(llama3):
    written = {field.key: field.value for field in to_gguf(llama3)}
    assert written["tokenizer.ggml.eos_token_id"] == 128001
    assert written["tokenizer.ggml.eot_token_id"] == 128009
    assert written["tokenizer.ggml.eom_token_id"] == 128008


def test_gguf_py_writes_and_reads_the_types_back(smollm2, tmp_path):
    path = tmp_path / "vocab.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    write_gguf_vocab(writer, smollm2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    reader = gguf.GGUFReader(path)
    assert from_gguf({key: field.contents() for key, field in reader.fields.items()}) == smollm2
    types = {key: [kind.name for kind in field.types] for key, field in reader.fields.items()}
    assert types["tokenizer.ggml.token_type"] == ["ARRAY", "INT32"]
    assert types["tokenizer.ggml.bos_token_id"] == ["UINT32"]
    assert types["tokenizer.ggml.add_bos_token"] == ["BOOL"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "no tokenizer of a Llama model"),
        ({"tokenizer.ggml.model": None}, "no tokenizer of a Llama model"),
        ({"tokenizer.ggml.tokens": []}, "incomplete"),
        ({"tokenizer.ggml.merges": None}, "incomplete"),
        ({"tokenizer.ggml.tokens": "abc"}, "no list"),
        ({"tokenizer.ggml.pre": ""}, "pre-tokenizer"),
        ({"tokenizer.ggml.pre": "default"}, "pre-tokenizer"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "pre-tokenizer"),
        ({"tokenizer.ggml.eos_token_id": 49152}, "outside its vocabulary"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "do not match"),
        ({"tokenizer.ggml.tokens": ["a"] * 49152}, "several ids"),
    ],
)
def test_a_broken_vocabulary_is_refused(smollm2_fields, change, message):
    with pytest.raises(TokenizerError, match=message) as caught:
        from_gguf({**smollm2_fields, **change})
    assert caught.value.expected is not None
    assert caught.value.found is not None


def test_padding_fills_the_embedding_with_unused_pieces(smollm2):
    padded = smollm2.padded(49154)
    assert padded.pieces[-2:] == ("[PAD49152]", "[PAD49153]")
    assert padded.token_types[-2:] == (TokenType.UNUSED,) * 2
    assert padded.encode("[PAD49153] stays text") == smollm2.encode("[PAD49153] stays text")
    assert smollm2.padded(smollm2.vocab_size) == smollm2


def test_a_tokenizer_of_another_vocabulary_size_is_refused(llama3):
    with pytest.raises(TokenizerError, match="another vocabulary size") as caught:
        llama3.padded(49152)
    assert "49152" in str(caught.value.expected)
    assert "128256" in str(caught.value.found)
    assert caught.value.hint


def _stopping_at(*names: str) -> Tokenizer:
    pieces = ("a", "</s>", *names)
    types = (TokenType.NORMAL, *(TokenType.CONTROL for _ in pieces[1:]))
    return Tokenizer("bpe", pieces, types, (), pre="gpt-2", eos_id=1, stop_ids=tuple(range(1, len(pieces))))


def test_stop_tokens_that_llama_cpp_does_not_know_by_text_get_its_keys():
    written = {field.key: field.value for field in to_gguf(_stopping_at("<halt>", "<|im_end|>", "<rest>"))}
    assert written["tokenizer.ggml.eot_token_id"] == 2
    assert written["tokenizer.ggml.eom_token_id"] == 4


def test_more_unknown_stop_tokens_than_keys_are_refused():
    with pytest.raises(TokenizerError, match="more tokens than GGUF can name"):
        to_gguf(_stopping_at("<halt>", "<rest>", "<quit>"))


def test_a_tokenizer_without_end_of_text_is_not_written():
    with pytest.raises(TokenizerError, match="no end of text"):
        to_gguf(_stopping_at().replace(eos_id=None))
