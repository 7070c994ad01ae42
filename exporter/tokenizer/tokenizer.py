"""One description of a tokenizer, whatever file it came from.

The description is data; reading text with it is left to Hugging Face ``tokenizers``, built from that data and
nothing else. So an encoding that is right proves the description right, and what a target writes is that description.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from exporter.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Kind = Literal["bpe", "spm"]


class TokenType(IntEnum):
    """What a piece is for, numbered as in GGUF (``tokenizer.ggml.token_type``, llama.cpp ``llama_token_type``)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, its rules and its chat conventions.

    Attributes:
        kind: ``"bpe"``: byte-level BPE (Llama 3, SmolLM2). ``"spm"``: SentencePiece BPE with byte fallback (Llama 2,
            TinyLlama).
        pieces: Token strings in id order, spelled as GGUF and Hugging Face spell them: in the byte-level alphabet for
            ``bpe``, with ``▁`` for a space for ``spm``; special tokens by their published names.
        token_types: One :class:`TokenType` per piece.
        merges: ``"left right"``, best first.
        scores: ``spm`` only: one score per piece, higher joins earlier.
        pre: ``bpe`` only: pre-tokenizer, a name of :mod:`exporter.tokenizer.pretokenizers`.
        bos_id: Begins a text.
        eos_id: Ends a text; the main one of ``stop_ids``.
        pad_id: Fills a batch.
        unk_id: Stands for what has no piece.
        stop_ids: Every token that ends a generation, ascending, ``eos_id`` included.
        add_bos: Whether the model expects ``bos_id`` before a text that is not a rendered chat.
        add_space_prefix: ``spm`` only: whether text begins with a space of the tokenizer's own.
        chat_template: Jinja source of the chat format.

    Raises:
        TokenizerError: The fields contradict each other.
    """

    kind: Kind
    pieces: tuple[str, ...] = field(repr=False)
    token_types: tuple[int, ...] = field(repr=False)
    merges: tuple[str, ...] = field(repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    pre: str = ""
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    add_bos: bool = False
    add_space_prefix: bool = False
    chat_template: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        size = self.vocab_size
        for what, values in (("token types", self.token_types), ("scores", self.scores)):
            if len(values) != size and (values or what == "token types"):
                raise TokenizerError(
                    f"the tokenizer's {what} do not match its pieces", expected=size, found=len(values)
                )
        if len(set(self.pieces)) != size:
            twice, times = Counter(self.pieces).most_common(1)[0]
            raise TokenizerError(
                "a piece of the tokenizer has several ids", expected="one", found=f"{twice!r}: {times}"
            )
        named = {"bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id, "unk": self.unk_id}
        named |= {f"stop token {token_id}": token_id for token_id in self.stop_ids}
        for name, token_id in named.items():
            if token_id is not None and not 0 <= token_id < size:
                raise TokenizerError(
                    f"the tokenizer's {name} id is outside its vocabulary", expected=f"0 to {size - 1}", found=token_id
                )

    @property
    def vocab_size(self) -> int:
        """Number of pieces, special and unused ones included."""
        return len(self.pieces)

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """Published name -> id of the control and unknown tokens."""
        return self.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)

    def ids_of(self, *kinds: TokenType) -> dict[str, int]:
        """Piece -> id of the pieces of some kinds, in id order."""
        kinded = zip(self.pieces, self.token_types, strict=True)
        return {piece: token_id for token_id, (piece, kind) in enumerate(kinded) if kind in kinds}

    def piece(self, token_id: int | None) -> str:
        """The piece with this id, ``""`` for ``None``."""
        return "" if token_id is None else self.pieces[token_id]

    def replace(self, **changes: Any) -> Tokenizer:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def padded(self, vocab_size: int) -> Tokenizer:
        """The same tokenizer with as many pieces as the embedding has rows.

        Models round their embedding up; the rows without a piece become unused tokens ``[PAD<id>]``, as llama.cpp's
        converter names them.

        Raises:
            TokenizerError: The tokenizer has more pieces than the embedding has rows.
        """
        missing = range(self.vocab_size, vocab_size)
        if self.vocab_size > vocab_size:
            raise TokenizerError(
                "the tokenizer belongs to a model of another vocabulary size",
                expected=f"at most {vocab_size} pieces, the rows of the embedding",
                found=f"{self.vocab_size} pieces",
                hint="put the tokenizer files that were published with these weights beside them",
            )
        return self.replace(
            pieces=(*self.pieces, *(unused_piece(token_id) for token_id in missing)),
            token_types=(*self.token_types, *(TokenType.UNUSED for _ in missing)),
            scores=(*self.scores, *(UNUSED_SCORE for _ in missing)) if self.scores else (),
        )

    def encode(self, text: str, *, parse_special: bool = False, add_bos: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: Any text.
            parse_special: Whether ``<|eot_id|>`` in the text is that token. If not it is the text it looks like, which
                is what text from outside must be (tiktoken: ``disallowed_special=()``). User-defined tokens are always
                recognised, as in llama.cpp.
            add_bos: Put ``bos_id`` first.
        """
        backend = self._backend if parse_special else self._backend_for_text
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        if add_bos and self.bos_id is not None:
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special tokens by name; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=False)
        return text

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt of a conversation; encode it with ``parse_special=True``.

        Args:
            messages: ``{"role": "system" | "user" | "assistant" | "tool", "content": text}`` in order.
            add_generation_prompt: End with the header of the assistant's turn.
            variables: What else the template sees, such as ``strftime_now`` in place of the clock's.

        Raises:
            TokenizerError: There is no chat template, or it refuses these messages.
        """
        from exporter.tokenizer.chat import render

        names = {"bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id, "unk": self.unk_id}
        variables = {f"{name}_token": self.piece(token_id) for name, token_id in names.items()} | variables
        return render(self.chat_template, messages, add_generation_prompt=add_generation_prompt, **variables)

    @cached_property
    def _backend(self) -> Backend:
        from tokenizers import Tokenizer as Backend

        from exporter.tokenizer.to_huggingface import to_hf_json_text

        return Backend.from_str(to_hf_json_text(self))

    @cached_property
    def _backend_for_text(self) -> Backend:
        # The switch is state of the backend: a second one keeps encode() free of races between threads.
        backend = type(self._backend).from_buffer(self._backend.to_str().encode())
        backend.encode_special_tokens = True
        return backend


UNUSED_SCORE = -10000.0
"""SentencePiece score of an unused piece, as in llama.cpp's converter: nothing is ever joined into it."""


def unused_piece(token_id: int) -> str:
    """llama.cpp's converter's name for an embedding row without a piece."""
    return f"[PAD{token_id}]"
