"""The vocabulary inside a GGUF file.

Source of the keys: ggml ``docs/gguf.md`` and llama.cpp ``src/llama-vocab.cpp``, which also gives the defaults for
absent ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporter.errors import TokenizerError
from exporter.tokenizer.merges import merges_of_scores
from exporter.tokenizer.pretokenizers import by_name
from exporter.tokenizer.stop_tokens import stop_ids
from exporter.tokenizer.tokenizer import Kind, Tokenizer, TokenType

KINDS: Mapping[str, Kind] = {"gpt2": "bpe", "llama": "spm"}
"""``tokenizer.ggml.model`` -> kind."""


def from_gguf(fields: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that GGUF metadata describes.

    Args:
        fields: Metadata key -> Python value (``str``, ``int``, ``bool``, list of those); other keys are ignored.

    Raises:
        TokenizerError: A key is missing, or names a tokenizer that Llama-architecture models do not use.
    """

    def get(name: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{name}", default)

    model = get("model")
    if model not in KINDS:
        raise TokenizerError(
            "this GGUF holds no tokenizer of a Llama model",
            expected=f"tokenizer.ggml.model of {' or '.join(KINDS)}",
            found="no such key" if model is None else model,
            hint="take the model's own GGUF, not an adapter, a projector or one split off without vocabulary",
        )
    kind = KINDS[model]
    pieces = tuple(_required(fields, "tokens"))
    types = tuple(get("token_type") or (TokenType.NORMAL,) * len(pieces))
    pre = "" if kind == "spm" else get("pre", "")
    tokenizer = Tokenizer(
        kind=kind,
        pieces=pieces,
        token_types=types,
        merges=() if kind == "spm" else tuple(_required(fields, "merges")),
        scores=tuple(_required(fields, "scores")) if kind == "spm" else (),
        pre=pre,
        bos_id=get("bos_token_id"),
        eos_id=get("eos_token_id"),
        pad_id=get("padding_token_id"),
        unk_id=get("unknown_token_id"),
        add_bos=bool(get("add_bos_token", kind == "spm" or by_name(pre).add_bos)),
        add_space_prefix=bool(get("add_space_prefix", kind == "spm")),
        chat_template=fields.get("tokenizer.chat_template"),
    )
    declared = (tokenizer.eos_id, get("eot_token_id"), get("eom_token_id"))
    return tokenizer.replace(
        merges=tokenizer.merges or merges_of_scores(tokenizer.ids_of(TokenType.NORMAL), tokenizer.scores),
        stop_ids=stop_ids(tokenizer.special_tokens, declared),
    )


def _required(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    values = fields.get(f"tokenizer.ggml.{name}")
    if not values:
        raise TokenizerError(
            "the GGUF's tokenizer is incomplete",
            expected=f"a list under tokenizer.ggml.{name}",
            found="no such key" if values is None else "an empty list",
            hint="llama.cpp would refuse this file too; convert the model again",
        )
    if isinstance(values, (str, bytes)):
        raise TokenizerError(f"tokenizer.ggml.{name} is no list", expected="a list", found=type(values).__name__)
    sequence: Sequence[Any] = values
    return sequence
