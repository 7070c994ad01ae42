"""Which tokens a model needs in order to say what it may say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from exporter.prune_guard.grammar import GrammarError, Language, parse
from exporter.tokenizer import Tokenizer
from exporter.tokenizer.stop_tokens import END_OF_TURN

GRAMMAR_SUFFIX = ".gbnf"
_SHOWN = 4


def read_kept_tokens(path: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens for a file: of a grammar (``.gbnf``) its words, of any other text what it is cut into.

    Raises:
        GrammarError: The file cannot be read, is empty, or :func:`tokens_of_grammar` refuses it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise GrammarError(f"{path} cannot be read", expected="a grammar or a text", found=reason) from None
    if not text.strip():
        raise GrammarError(f"{path} is empty", expected="a grammar (.gbnf), or a text whose tokens are kept")
    if path.suffix == GRAMMAR_SUFFIX:
        return tokens_of_grammar(parse(text), tokenizer)
    return _with_end(tokenizer.encode(text), tokenizer)


def tokens_of_grammar(language: Language, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of every word and the one that ends an answer, ascending.

    A word must be one token, and two words that follow each other must stay the two tokens they are: only then does the
    model say exactly what the grammar allows, one word a step.

    Raises:
        GrammarError: A word is several tokens, or the tokenizer joins two of them.
    """
    pieces = {word: tokenizer.encode(word) for word in language.words}
    cut = [f"{word!r} is {len(ids)}: {_shown(ids, tokenizer)}" for word, ids in pieces.items() if len(ids) != 1]
    if cut:
        raise GrammarError(
            f"{len(cut)} words of the grammar are not single tokens",
            expected="one token a word",
            found=_listed(cut),
            hint="keep the tokens of a text instead: --keep-tokens FILE.txt with every answer that is wanted",
        )
    joined = [
        f"{a!r} and {b!r} become {_shown(ids, tokenizer)}"
        for a, b in sorted(language.pairs)
        if (ids := tokenizer.encode(a + b)) != [*pieces[a], *pieces[b]]
    ]
    if joined:
        raise GrammarError(
            "the tokenizer cuts some words of the grammar differently where they follow each other",
            expected="each word as the token that it is alone",
            found=_listed(joined),
            hint="write what is joined as one word",
        )
    return _with_end((ids[0] for ids in pieces.values()), tokenizer)


def end_of_answer(tokenizer: Tokenizer) -> int | None:
    """The token that ends a turn, or the text where there are no turns."""
    named = (tokenizer.special_tokens[piece] for piece in END_OF_TURN if piece in tokenizer.special_tokens)
    return next(named, tokenizer.eos_id)


def _with_end(ids: Iterable[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    end = end_of_answer(tokenizer)
    if end is None:
        raise GrammarError(
            "the tokenizer has no token that ends an answer", expected=" or ".join(END_OF_TURN[:3]), found="none"
        )
    return tuple(sorted({*ids, end}))


def _shown(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    return " ".join(f"{tokenizer.decode([token])!r}" for token in ids)


def _listed(items: list[str]) -> str:
    rest = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + rest
