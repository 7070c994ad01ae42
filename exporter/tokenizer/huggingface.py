"""The tokenizer files of a Hugging Face folder.

``tokenizer.json`` holds pieces, merges and rules; which tokens begin, end and pad a text is spread over the other
files. Later files of a list below fill what earlier ones leave open. Sources: tokenizers' serialization format,
transformers ``tokenization_utils_base.py``, and llama.cpp ``convert_hf_to_gguf.py`` for token types and gaps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.errors import TokenizerError
from exporter.tokenizer.merges import scores_of_merges
from exporter.tokenizer.pretokenizers import detect
from exporter.tokenizer.stop_tokens import stop_ids
from exporter.tokenizer.tokenizer import Kind, Tokenizer, TokenType, unused_piece

Json = Mapping[str, Any]

TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that name special tokens by text: ``{"eos_token": "</s>"}``."""

ID_FILES = ("generation_config.json", "config.json")
"""Files that name special tokens by id: ``{"eos_token_id": 2}``, for EOS also a list."""

_KINDS: Mapping[tuple[str, bool, bool], Kind] = {("BPE", False, True): "bpe", ("BPE", True, False): "spm"}
"""(Model type, byte fallback, byte-level pre-tokenizer) -> kind."""

_NORMALIZERS: Mapping[Kind, frozenset[str]] = {
    "bpe": frozenset(),
    "spm": frozenset({"Sequence", "Prepend", "Replace"}),
}

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


def read_huggingface(folder: Path) -> Tokenizer:
    """The tokenizer of a folder in Hugging Face's format.

    Args:
        folder: Contains ``tokenizer.json`` and usually ``tokenizer_config.json``, ``special_tokens_map.json``,
            ``generation_config.json``, ``config.json`` and ``chat_template.jinja``.

    Raises:
        TokenizerError: A file is missing or malformed, or the tokenizer is neither byte-level BPE nor SentencePiece
            BPE with byte fallback, or its pre-tokenizer has no name in llama.cpp.
    """
    path = folder / "tokenizer.json"
    document = _read_json(path)
    if not document:
        raise TokenizerError(
            f"{path} is missing",
            expected="the tokenizer.json that was published with the weights",
            found=", ".join(sorted(p.name for p in folder.glob("*token*"))) or "no tokenizer files",
            hint="if there is only a SentencePiece tokenizer.model, load it with transformers and save_pretrained()",
        )
    try:
        return _tokenizer(document, folder)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TokenizerError(
            f"{path} is malformed",
            expected="the format of the tokenizers library, version 1.0",
            found=f"{type(error).__name__}: {error}",
            hint="copy it again from where the weights came from",
        ) from error


def _tokenizer(document: Json, folder: Path) -> Tokenizer:
    model = document["model"]
    kind = _kind(document)
    ids = _all_ids(document)
    size = max(ids.values()) + 1
    names = {token_id: piece for piece, token_id in ids.items()}
    pieces = tuple(names.get(token_id) or unused_piece(token_id) for token_id in range(size))
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    configs = [_read_json(folder / name) for name in TOKEN_FILES]
    id_configs = [_read_json(folder / name) for name in ID_FILES]
    special = {name: next(_special_ids(name, ids, configs, id_configs), None) for name in ("bos", "eos", "pad", "unk")}
    if special["unk"] is None:
        special["unk"] = ids.get(model.get("unk_token") or "")
    tokenizer = Tokenizer(
        kind=kind,
        pieces=pieces,
        token_types=_token_types(document, pieces, names, special["unk"] if kind == "spm" else None),
        merges=merges,
        scores=scores_of_merges(pieces, merges) if kind == "spm" else (),
        pre=detect(document["pre_tokenizer"], bool(model.get("ignore_merges"))).name if kind == "bpe" else "",
        add_bos=_adds_bos(document, configs[0], pieces, special["bos"]),
        add_space_prefix=kind == "spm" and _adds_space(document),
        chat_template=_chat_template(folder, configs[0]),
        bos_id=special["bos"],
        eos_id=special["eos"],
        pad_id=special["pad"],
        unk_id=special["unk"],
    )
    declared = _special_ids("eos", ids, configs, id_configs)
    return tokenizer.replace(stop_ids=stop_ids(tokenizer.special_tokens, declared))


def _kind(document: Json) -> Kind:
    model = document["model"]
    splits, normalizes = set(_types(document.get("pre_tokenizer"))), set(_types(document.get("normalizer")))
    rules = (model.get("type", "BPE"), bool(model.get("byte_fallback")), "ByteLevel" in splits)
    if rules not in _KINDS:
        raise TokenizerError(
            "tokenizer.json is of a kind that Llama-architecture models do not use",
            expected="byte-level BPE, or BPE with byte fallback",
            found=f"model type {rules[0]}, byte fallback {rules[1]}, byte-level {rules[2]}",
            hint="llama.cpp could not tokenize with it either",
        )
    kind = _KINDS[rules]
    unknown = normalizes - _NORMALIZERS[kind] | (splits - {"Metaspace"} if kind == "spm" else set())
    if unknown:
        raise TokenizerError(
            "tokenizer.json changes text in ways that GGUF vocabularies cannot express",
            expected="nothing but writing spaces as ▁" if kind == "spm" else "no normalizer",
            found=", ".join(sorted(unknown)),
            hint="export would be silently wrong on the texts this concerns",
        )
    return kind


def _types(node: Any) -> Iterator[str]:
    """Every ``"type"`` in a tree of normalizers or pre-tokenizers."""
    if isinstance(node, Mapping):
        if "type" in node:
            yield node["type"]
        for child in node.values():
            yield from _types(child)
    elif isinstance(node, list):
        for child in node:
            yield from _types(child)


def _all_ids(document: Json) -> dict[str, int]:
    added = {token["content"]: int(token["id"]) for token in document.get("added_tokens") or ()}
    return {**document["model"]["vocab"], **added}


def _token_types(
    document: Json, pieces: tuple[str, ...], names: Mapping[int, str], unknown: int | None
) -> tuple[int, ...]:
    added = {
        int(token["id"]): TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        for token in document.get("added_tokens") or ()
    }
    byte_fallback = document["model"].get("byte_fallback")

    def kind(token_id: int, piece: str) -> TokenType:
        if token_id == unknown:
            return TokenType.UNKNOWN
        if token_id not in names:
            return TokenType.UNUSED
        if byte_fallback and _BYTE_PIECE.fullmatch(piece):
            return TokenType.BYTE
        return added.get(token_id, TokenType.NORMAL)

    return tuple(kind(token_id, piece) for token_id, piece in enumerate(pieces))


def _special_ids(name: str, ids: Mapping[str, int], configs: list[Json], id_configs: list[Json]) -> Iterator[int]:
    """Ids that the files give for ``bos``, ``eos``, ``pad`` or ``unk``, most authoritative first."""
    for config in configs:
        token = config.get(f"{name}_token")
        text = token["content"] if isinstance(token, Mapping) else token
        if isinstance(text, str) and text in ids:
            yield ids[text]
    for config in id_configs:
        value = config.get(f"{name}_token_id")
        values = value if isinstance(value, list) else [value]
        # Some configurations say -1 for "none".
        yield from (token_id for token_id in values if token_id is not None and token_id >= 0)


def _adds_bos(document: Json, config: Json, pieces: tuple[str, ...], bos_id: int | None) -> bool:
    """``add_bos_token`` if the configuration says so, else whether the post-processor's template begins with BOS."""
    stated = config.get("add_bos_token")
    if isinstance(stated, bool):
        return stated and bos_id is not None
    processor = document.get("post_processor") or {}
    for step in (processor, *processor.get("processors", ())):
        if step.get("type") == "TemplateProcessing":
            first = step["single"][0].get("SpecialToken", {}).get("id")
            return bos_id is not None and first == pieces[bos_id]
    return False


def _adds_space(document: Json) -> bool:
    """Whether text gets SentencePiece's leading space, by normalizer (older files) or by Metaspace (newer ones).

    Metaspace leaves text alone that begins with a space already; SentencePiece and llama.cpp do not, and are followed.
    """
    if "Prepend" in _types(document.get("normalizer")):
        return True
    pre_tokenizer = document.get("pre_tokenizer") or {}
    return pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme", "always") != "never"


def _chat_template(folder: Path, config: Json) -> str | None:
    """``chat_template.jinja``, or the configuration's: one template or a list with one named ``default``."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template


def _read_json(path: Path) -> Json:
    """The object in a JSON file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read", expected="a JSON object", found=error) from error
    if not isinstance(document, dict):
        raise TokenizerError(f"{path} holds no JSON object", expected="{…}", found=type(document).__name__)
    return document
