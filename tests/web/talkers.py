"""Llamas that say what a test wants: the last token of the prompt decides.

Attention and feed-forward layers add nothing to the residual stream (``wo`` and ``w2`` are zero), so that the logits
are ``output @ norm(tok_embeddings[last token])``: a table from each token to the next one. The embedding of a token
that has a successor is one axis, and the row of the successor in the head points along it; all other tokens are zero
vectors, after which every logit is equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fixtures import vocabulary
from tests.fixtures.models import (
    TinySpec,
    huggingface_config,
    huggingface_name,
    huggingface_weights,
    write_safetensors,
)

SPEC = TinySpec(head_dim=16, n_layers=1, dtype="float32", max_seq_len=4096)
WORDS = ("safe", "unsafe")
"""Tokens that take the place of reserved ones; a token's successor does not depend on what came before it, and
``safe`` spelled in letters would end where ``unsafe`` goes on."""

END = "<|eot_id|>"

GUARD_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>user<|end_header_id|>\n\nTask: judge the last message.\n"
    "{{ messages[-1]['content'] | trim }}"
)
GUARD: Mapping[str, Sequence[str]] = {
    "?": ["safe", END],
    "!": ["unsafe", "\n", "S", "2", END],
    ".": ["no", END],
}
"""A guard that calls questions safe and exclamations unsafe, and says nothing intelligible about statements."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}{% if not loop.last %}<|eot_id|>{% endif %}{% endfor %}"
)
CHAT: Mapping[str, Sequence[str]] = {
    "?": ["Y", "e", "s", END],
    "!": ["l", "a", " ", "l"],
    ";": ["<", "i", ">", END],
}
"""A chat model that says Yes to questions, sings without end at exclamations, and answers semicolons with markup."""


def write_talker(folder: Path, says: Mapping[str, Sequence[str]], chat_template: str) -> Path:
    """A Hugging Face folder of a model that, after a prompt ending in a key of ``says``, generates its tokens."""
    folder.mkdir(parents=True)
    vocabulary.write_tokenizer_json(folder)
    ids = _rename_reserved(folder / "tokenizer.json")
    _change(folder / "tokenizer_config.json", chat_template=chat_template)
    (folder / "config.json").write_text(json.dumps(huggingface_config(SPEC)))
    tensors = huggingface_weights(SPEC)
    for name in ("layers.0.attention.wo.weight", "layers.0.feed_forward.w2.weight"):
        tensors[huggingface_name(name)][:] = 0
    embeddings, head = np.zeros((2, SPEC.vocab_size, SPEC.dim), np.float32)
    for axis, (token, following) in enumerate(_successors(says).items()):
        embeddings[ids[token], axis] = 1
        head[ids[following], axis] = 1
    tensors[huggingface_name("tok_embeddings.weight")] = embeddings
    tensors[huggingface_name("output.weight")] = head
    tensors[huggingface_name("norm.weight")] = np.ones(SPEC.dim, np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def _successors(says: Mapping[str, Sequence[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for last, tokens in says.items():
        for token, following in zip([last, *tokens], tokens, strict=False):
            if found.setdefault(token, following) != following:
                raise ValueError(f"{token!r} cannot be followed by both {found[token]!r} and {following!r}")
    return found


def _rename_reserved(path: Path) -> dict[str, int]:
    """Put :data:`WORDS` in the place of reserved tokens; returns the id of every token by its text."""
    document: dict[str, Any] = json.loads(path.read_text())
    reserved = [token for token in document["added_tokens"] if "reserved" in token["content"]]
    for token, word in zip(reserved, WORDS, strict=False):
        token.update(content=word, special=False)
    path.write_text(json.dumps(document, ensure_ascii=False))
    ids = {piece.decode(): i for i, piece in enumerate(vocabulary.PIECES) if piece.isascii()}
    return ids | {token["content"]: token["id"] for token in document["added_tokens"]}


def _change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
