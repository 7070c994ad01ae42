"""Meta's ``tokenizer.model`` of Llama 3: a tiktoken file.

Each line is a base64 piece and its rank, which is also its id. Regex, special tokens and the rule "join the pair of
lowest rank" are not in the file but in Meta's code: llama-models ``llama3/tokenizer.py``.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from exporter.errors import TokenizerError
from exporter.tokenizer.byte_level import to_piece
from exporter.tokenizer.chat import llama3_template
from exporter.tokenizer.merges import merges_of_ranks
from exporter.tokenizer.stop_tokens import stop_ids
from exporter.tokenizer.tokenizer import Tokenizer, TokenType

N_SPECIAL = 256
"""Ids that Llama 3 keeps free after its base vocabulary of 128,000."""

_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Offset from the base vocabulary -> name, as in ``tokenizer_config.json`` of Llama 3.1, 3.2 and Llama Guard 3."""


def special_token_names() -> tuple[str, ...]:
    """The 256 special tokens in id order; the free ones are numbered through: ``<|reserved_special_token_0|>``, ..."""
    reserved = (f"<|reserved_special_token_{index}|>" for index in range(N_SPECIAL))
    return tuple(_NAMED.get(offset) or next(reserved) for offset in range(N_SPECIAL))


def read_meta(folder: Path, *, chat_template: str | None = None) -> Tokenizer:
    """The tokenizer of a folder in Meta's format.

    Meta's folders do not say whether they hold a base or an instruct model: the EOS is ``<|end_of_text|>``, as in
    Meta's code, and ``stop_ids`` has the instruct models' ends of turn and message as well.

    Args:
        folder: Contains ``tokenizer.model``.
        chat_template: Jinja source instead of the Llama 3 instruct format, e.g. Llama Guard's.

    Raises:
        TokenizerError: The file is missing or is no tiktoken vocabulary.
    """
    base = _base_pieces(folder / "tokenizer.model")
    ids = {piece: token_id for token_id, piece in enumerate(base)}
    special = {name: len(base) + offset for offset, name in enumerate(special_token_names())}
    eos_id = special["<|end_of_text|>"]
    return Tokenizer(
        kind="bpe",
        pieces=(*base, *special),
        token_types=(TokenType.NORMAL,) * len(base) + (TokenType.CONTROL,) * len(special),
        merges=merges_of_ranks(ids, ids.__getitem__),
        pre="llama-bpe",
        bos_id=special["<|begin_of_text|>"],
        eos_id=eos_id,
        pad_id=special["<|finetune_right_pad_id|>"],
        stop_ids=stop_ids(special, [eos_id]),
        add_bos=True,
        chat_template=llama3_template() if chat_template is None else chat_template,
    )


def _base_pieces(path: Path) -> tuple[str, ...]:
    """Pieces in rank order, in the byte-level alphabet."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except OSError as error:
        raise TokenizerError(
            f"cannot read {path}",
            expected="the tokenizer.model that Meta ships beside the weights",
            found=error.strerror,
            hint="copy it into the folder; it is the same file for all Llama 3 models",
        ) from error
    except (ValueError, binascii.Error) as error:
        raise TokenizerError(
            f"{path} is no tiktoken vocabulary",
            expected="lines of a base64 token and its rank",
            found=error,
            hint="Llama 2's tokenizer.model is SentencePiece: use the model's Hugging Face folder",
        ) from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(
            f"{path} is not a whole vocabulary",
            expected="all 256 single bytes and the ranks 0, 1, 2, ... without a gap",
            found=f"{len(ranks)} tokens, {len(missing)} bytes missing",
            hint="the file may be truncated; copy it again",
        )
    return tuple(to_piece(token) for token in sorted(ranks, key=ranks.__getitem__))
