"""A tokenizer description as GGUF metadata.

Source of the keys: ggml ``docs/gguf.md``. llama.cpp finds further special tokens by their text, but among several
ends of turn it takes whichever its hash map yields first; so EOT and EOM are always written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from exporter.errors import TokenizerError
from exporter.tokenizer.from_gguf import KINDS
from exporter.tokenizer.merges import merges_of_scores
from exporter.tokenizer.stop_tokens import END_OF_GENERATION, END_OF_MESSAGE, END_OF_TURN
from exporter.tokenizer.tokenizer import Tokenizer, TokenType

if TYPE_CHECKING:
    from gguf import GGUFWriter

ValueType = Literal["STRING", "UINT32", "BOOL", "ARRAY"]
ElementType = Literal["STRING", "INT32", "FLOAT32"]


class GGUFField(NamedTuple):
    """One metadata entry; the type names are those of gguf's ``GGUFValueType``."""

    key: str
    value: Any
    type: ValueType
    element_type: ElementType | None = None


def to_gguf(tokenizer: Tokenizer) -> list[GGUFField]:
    """The metadata that makes llama.cpp tokenize, stop and chat as described.

    Raises:
        TokenizerError: GGUF has no words for one of the tokenizer's rules.
    """
    return list(_fields(tokenizer))


def write_gguf_vocab(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    """Add :func:`to_gguf` to a ``gguf.GGUFWriter``."""
    from gguf import GGUFValueType

    for key, value, kind, element in to_gguf(tokenizer):
        writer.add_key_value(key, value, GGUFValueType[kind], element and GGUFValueType[element])


def _fields(tokenizer: Tokenizer) -> Iterator[GGUFField]:
    models = {kind: model for model, kind in KINDS.items()}
    yield GGUFField("tokenizer.ggml.model", models[tokenizer.kind], "STRING")
    yield GGUFField("tokenizer.ggml.tokens", list(tokenizer.pieces), "ARRAY", "STRING")
    yield GGUFField("tokenizer.ggml.token_type", [int(kind) for kind in tokenizer.token_types], "ARRAY", "INT32")
    if tokenizer.kind == "bpe":
        yield GGUFField("tokenizer.ggml.pre", tokenizer.pre, "STRING")
        yield GGUFField("tokenizer.ggml.merges", list(tokenizer.merges), "ARRAY", "STRING")
    else:
        _check_scores(tokenizer)
        yield GGUFField("tokenizer.ggml.scores", list(tokenizer.scores), "ARRAY", "FLOAT32")
    for name, token_id in _named_ids(tokenizer).items():
        if token_id is not None:
            yield GGUFField(f"tokenizer.ggml.{name}_token_id", token_id, "UINT32")
    yield GGUFField("tokenizer.ggml.add_bos_token", tokenizer.add_bos, "BOOL")
    yield GGUFField("tokenizer.ggml.add_space_prefix", tokenizer.add_space_prefix, "BOOL")
    if tokenizer.chat_template is not None:
        yield GGUFField("tokenizer.chat_template", tokenizer.chat_template, "STRING")


def _named_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """Key stem -> id. The EOT and EOM keys go first to stop tokens that llama.cpp would not know by their text."""
    special = tokenizer.special_tokens
    by_text = {name: special[name] for name in (*END_OF_TURN, *END_OF_MESSAGE) if name in special}
    untold = [i for i in tokenizer.stop_ids if i != tokenizer.eos_id and tokenizer.piece(i) not in END_OF_GENERATION]
    if len(untold) > 2:
        raise TokenizerError(
            "the model stops at more tokens than GGUF can name",
            expected="an EOS, an EOT, an EOM and tokens that llama.cpp knows by text",
            found=", ".join(repr(tokenizer.piece(i)) for i in untold),
            hint="remove those that no chat needs from eos_token_id in generation_config.json",
        )
    if tokenizer.eos_id is None:
        # Without the key llama.cpp stops at id 11 of a byte-level vocabulary, whatever that is.
        raise TokenizerError(
            "the tokenizer names no end of text",
            expected="an EOS token",
            found="none in any of its files",
            hint="add eos_token to tokenizer_config.json or eos_token_id to generation_config.json",
        )
    eot = next((by_text[name] for name in END_OF_TURN if name in by_text), None)
    eom = next((by_text[name] for name in END_OF_MESSAGE if name in by_text), None)
    return {
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "eot": untold[0] if untold else eot,
        "eom": untold[1] if len(untold) > 1 else eom,
        "unknown": tokenizer.unk_id,
        "padding": tokenizer.pad_id,
    }


def _check_scores(tokenizer: Tokenizer) -> None:
    """llama.cpp joins by scores alone: they have to imply the very merges the tokenizer has, in the same order."""
    ids = tokenizer.ids_of(TokenType.NORMAL)
    implied = merges_of_scores(ids, tokenizer.scores)
    own = tuple(merge for merge in tokenizer.merges if merge.replace(" ", "", 1) in ids)
    if implied != own:
        raise TokenizerError(
            "this tokenizer's merges cannot be written as one score per piece, which is all that llama.cpp reads",
            expected=f"every way to join two pieces into a third: {len(implied)} merges",
            found=f"{len(own)} merges" + (" in another order" if len(implied) == len(own) else ""),
            hint="the tokenizer was trained as BPE, not as SentencePiece; llama.cpp has no such byte-fallback BPE",
        )
