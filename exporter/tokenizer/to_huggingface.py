"""A tokenizer description as a complete ``tokenizer.json``.

The format is Hugging Face tokenizers' (``tokenizers/src/tokenizer/serialization.rs``). Every piece is in the model's
vocabulary, special ones too, so that ids need not be contiguous by class.
"""

from __future__ import annotations

import json
from typing import Any

from exporter.tokenizer.pretokenizers import by_name
from exporter.tokenizer.tokenizer import Tokenizer, TokenType

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_ADDED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


def to_hf_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``tokenizer.json`` of a tokenizer, as plain JSON types.

    Raises:
        TokenizerError: The pre-tokenizer's name is unknown.
    """
    rules = _bpe_rules(tokenizer) if tokenizer.kind == "bpe" else _spm_rules(tokenizer)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer),
        "post_processor": _bos_template(tokenizer),
        **rules,
    }


def to_hf_json_text(tokenizer: Tokenizer) -> str:
    """The same as one line of text."""
    return json.dumps(to_hf_json(tokenizer), ensure_ascii=False)


def _model(tokenizer: Tokenizer, **flags: object) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **flags,
        "vocab": {piece: token_id for token_id, piece in enumerate(tokenizer.pieces)},
        "merges": [merge.split(" ", 1) for merge in tokenizer.merges],
    }


def _bpe_rules(tokenizer: Tokenizer) -> dict[str, Any]:
    pre = by_name(tokenizer.pre)
    splits = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} for regex in pre.regexes
    ]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, _BYTE_LEVEL]},
        "decoder": _BYTE_LEVEL,
        "model": _model(tokenizer, ignore_merges=pre.ignore_merges),
    }


def _spm_rules(tokenizer: Tokenizer) -> dict[str, Any]:
    prefix = [{"type": "Prepend", "prepend": "▁"}] if tokenizer.add_space_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if tokenizer.add_space_prefix else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    unknown = None if tokenizer.unk_id is None else tokenizer.piece(tokenizer.unk_id)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _model(tokenizer, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _added_tokens(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return [
        {
            "id": token_id,
            "content": piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != TokenType.USER_DEFINED,
        }
        for token_id, (piece, kind) in enumerate(zip(tokenizer.pieces, tokenizer.token_types, strict=True))
        if kind in _ADDED
    ]


def _bos_template(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """BOS before each text, where the model expects it."""
    if not tokenizer.add_bos or tokenizer.bos_id is None:
        return None
    bos = tokenizer.piece(tokenizer.bos_id)

    def text(name: str, segment: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": bos, "type_id": segment}}, {"Sequence": {"id": name, "type_id": segment}}]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }
