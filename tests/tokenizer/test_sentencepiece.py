"""SentencePiece BPE with byte fallback (Llama 2, TinyLlama).

The oracle is SentencePiece itself: ``data/sentencepiece_tiny.json`` holds a vocabulary it trained on our probe texts
and the ids it gave to them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter.errors import TokenizerError
from exporter.tokenizer import TokenType, from_gguf, load_tokenizer_folder, to_gguf, to_hf_json
from exporter.tokenizer.merges import merges_of_scores, scores_of_merges

GOLDEN = json.loads((Path(__file__).parent / "data" / "sentencepiece_tiny.json").read_text(encoding="utf-8"))
FIELDS = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": GOLDEN["pieces"],
    "tokenizer.ggml.scores": GOLDEN["scores"],
    "tokenizer.ggml.token_type": GOLDEN["token_types"],
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


@pytest.fixture(scope="module")
def tiny():
    return from_gguf(FIELDS)


def test_texts_get_the_ids_sentencepiece_gives_them(tiny):
    assert len(GOLDEN["encodings"]) > 200
    assert [text for text, ids in GOLDEN["encodings"] if tiny.encode(text) != ids] == []


def test_a_wrong_order_of_scores_would_show(tiny):
    """Negative control."""
    backwards = from_gguf({**FIELDS, "tokenizer.ggml.scores": [-score for score in GOLDEN["scores"]]})
    assert any(backwards.encode(text) != ids for text, ids in GOLDEN["encodings"])


def test_decoding_gives_the_text_back(tiny):
    assert [text for text, _ in GOLDEN["encodings"] if tiny.decode(tiny.encode(text)) != text] == []


def test_llama_cpps_defaults_hold_where_keys_are_absent(tiny):
    assert tiny.add_bos
    assert tiny.add_space_prefix
    assert tiny.stop_ids == (2,)


def test_a_hugging_face_folder_of_the_same_tokenizer_says_the_same(tiny, tmp_path):
    """tokenizer.json has merges and no scores: the scores made from them order the pieces as the originals do."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(to_hf_json(tiny)), encoding="utf-8")
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>"}, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    read = load_tokenizer_folder(tmp_path)
    assert read.replace(scores=tiny.scores) == tiny
    again = from_gguf({field.key: field.value for field in to_gguf(read)})
    assert [text for text, ids in GOLDEN["encodings"] if again.encode(text) != ids] == []


def test_equal_scores_come_back_from_interleaved_merges():
    """Llama 2's runs of spaces have one score; their published merges are ordered by parts, not by piece."""
    ids = {piece: i for i, piece in enumerate(("▁", "▁▁", "▁▁▁", "▁▁▁▁", "a", "▁a"))}
    scores = (-9.0, -5.0, -5.0, -5.0, -9.0, -1.0)
    merges = merges_of_scores(ids, scores)
    assert merges == ("▁ a", "▁ ▁", "▁ ▁▁", "▁ ▁▁▁", "▁▁ ▁", "▁▁ ▁▁", "▁▁▁ ▁")
    derived = scores_of_merges(tuple(ids), merges)
    assert derived[2] == derived[3]
    assert derived[5] > derived[1] > derived[2] > derived[0] == derived[4]
    assert merges_of_scores(ids, derived) == merges


def test_merges_that_no_scores_can_express_are_refused(tiny):
    with pytest.raises(TokenizerError, match="one score per piece") as caught:
        to_gguf(tiny.replace(merges=tiny.merges[::2]))
    assert caught.value.hint


def test_byte_pieces_stand_for_unknown_characters(tiny):
    ids = tiny.encode("\U0001f9ff")
    assert {tiny.token_types[i] for i in ids[1:]} == {TokenType.BYTE}
    assert tiny.decode(ids) == "\U0001f9ff"
    assert tiny.decode(ids[:-1]).endswith("\ufffd")


def test_the_leading_space_may_come_from_metaspace(tiny, tmp_path):
    """Newer transformers write the same rule as a pre-tokenizer."""
    document = to_hf_json(tiny)
    document["normalizer"] = None
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_tokenizer_folder(tmp_path).add_space_prefix
    document["pre_tokenizer"]["prepend_scheme"] = "never"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert not load_tokenizer_folder(tmp_path).add_space_prefix
    document["pre_tokenizer"] = {"type": "Punctuation", "behavior": "Isolated"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(TokenizerError, match="changes text"):
        load_tokenizer_folder(tmp_path)
