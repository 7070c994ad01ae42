"""The grammar of what a model may say, as a file and as the words that follow each other.

The format is llama.cpp's GBNF (``grammars/README.md``) as far as it spells finite words: rules, string literals,
groups, alternatives, ``?``, ``*``, ``+`` and comments. Character ranges and recursion have no place in a list of words.
So the same file can also constrain llama.cpp while it generates.

What follows what is read off the expression as Glushkov does for regular expressions (V. M. Glushkov 1961, *The
abstract theory of automata*): the first and last words of each part, and whether it can be empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from exporter.errors import ExporterError

START = "root"
"""The rule that a grammar begins with."""

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<literal>"(?:[^"\\\n]|\\.)*")|(?P<define>[a-zA-Z][\w-]*\s*::=)"""
    r"""|(?P<name>[a-zA-Z][\w-]*)|(?P<mark>[|()?*+])|(?P<space>\s+)|(?P<other>.)"""
)


class GrammarError(ExporterError):
    """A grammar that cannot be read, or whose words the tokenizer cannot say."""


@dataclass(frozen=True)
class Language:
    """What can be said.

    Attributes:
        words: Every word, in the order of the file.
        first: Words that may come first.
        last: Words that may come last.
        pairs: Words that may follow each other.
        empty: Whether nothing may be said at all.
    """

    words: tuple[str, ...]
    first: frozenset[str]
    last: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    empty: bool


@dataclass
class _Part:
    """A part of the expression: its first and last words, and whether it can be empty."""

    first: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    empty: bool = True


def parse(text: str) -> Language:
    """Read a grammar.

    Raises:
        GrammarError: It is not in the format, names a rule that is not there, is recursive, or says nothing.
    """
    rules = _rules(text)
    if START not in rules:
        raise GrammarError(
            f"the grammar has no rule {START}", expected=f"{START} ::= …", found=", ".join(rules) or "{}"
        )
    reader = _Reader(rules)
    whole = reader.rule(START, ())
    if not reader.words:
        raise GrammarError(
            "the grammar has no words", expected='string literals such as "safe"', found=text.strip()[:80]
        )
    return Language(tuple(reader.words), whole.first, whole.last, frozenset(reader.pairs), whole.empty)


def _rules(text: str) -> dict[str, list[tuple[str, str]]]:
    """Name -> the tokens of its definition, as (kind, text)."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] | None = None
    for match in _TOKEN.finditer(text):
        kind, piece = str(match.lastgroup), match.group()
        if kind in ("space", "comment"):
            continue
        if kind == "define":
            name = piece[:-3].strip()
            if name in found:
                raise GrammarError("the grammar defines a rule twice", expected="one definition", found=name)
            current = found[name] = []
        elif kind == "other" or current is None:
            line = text.count("\n", 0, match.start()) + 1
            raise GrammarError(
                f"the grammar cannot be read at line {line}",
                expected='rules of words: name ::= "word" | ( other-rule )?',
                found=text[match.start() :].splitlines()[0][:40],
                hint="character ranges are no words: write them out",
            )
        else:
            current.append((kind, piece))
    return found


@dataclass
class _Reader:
    """Descends into rules; collects words and pairs on the way."""

    rules: dict[str, list[tuple[str, str]]]
    words: dict[str, None] = field(default_factory=dict)
    pairs: set[tuple[str, str]] = field(default_factory=set)

    def rule(self, name: str, inside: tuple[str, ...]) -> _Part:
        if name in inside:
            raise GrammarError(
                "the grammar is recursive", expected="rules that end", found=" -> ".join((*inside, name))
            )
        if name not in self.rules:
            raise GrammarError("the grammar names a rule that is not there", expected=", ".join(self.rules), found=name)
        tokens = self.rules[name][::-1]
        part = self._alternatives(tokens, (*inside, name))
        if tokens:
            raise GrammarError(f"rule {name} of the grammar has a ) too many", found=tokens[-1][1])
        return part

    def _alternatives(self, tokens: list[tuple[str, str]], inside: tuple[str, ...]) -> _Part:
        part = self._sequence(tokens, inside)
        while tokens and tokens[-1][1] == "|":
            tokens.pop()
            other = self._sequence(tokens, inside)
            part = _Part(part.first | other.first, part.last | other.last, part.empty or other.empty)
        return part

    def _sequence(self, tokens: list[tuple[str, str]], inside: tuple[str, ...]) -> _Part:
        part = _Part()
        while tokens and tokens[-1] not in (("mark", "|"), ("mark", ")")):
            item = self._repeated(self._atom(tokens, inside), tokens)
            self._follow(part.last, item.first)
            part = _Part(
                part.first | item.first if part.empty else part.first,
                part.last | item.last if item.empty else item.last,
                part.empty and item.empty,
            )
        return part

    def _repeated(self, item: _Part, tokens: list[tuple[str, str]]) -> _Part:
        while tokens and tokens[-1][1] in ("?", "*", "+") and tokens[-1][0] == "mark":
            mark = tokens.pop()[1]
            if mark != "?":
                self._follow(item.last, item.first)
            item = _Part(item.first, item.last, item.empty or mark != "+")
        return item

    def _atom(self, tokens: list[tuple[str, str]], inside: tuple[str, ...]) -> _Part:
        kind, piece = tokens.pop()
        if kind == "literal":
            word = _unquoted(piece)
            if not word:
                return _Part()
            self.words[word] = None
            return _Part(frozenset({word}), frozenset({word}), empty=False)
        if kind == "name":
            return self.rule(piece, inside)
        if piece == "(":
            part = self._alternatives(tokens, inside)
            if not tokens or tokens.pop()[1] != ")":
                raise GrammarError(f"rule {inside[-1]} of the grammar lacks a )")
            return part
        raise GrammarError(f"rule {inside[-1]} of the grammar repeats nothing", expected=f"a word before {piece}")

    def _follow(self, before: Iterable[str], after: Iterable[str]) -> None:
        self.pairs |= {(a, b) for a in before for b in after}


def _unquoted(literal: str) -> str:
    """Escapes are those of JSON, which GBNF's are where they occur in words."""
    try:
        return str(json.loads(literal))
    except json.JSONDecodeError:
        raise GrammarError(
            "a word of the grammar has an unknown escape", expected=r"\n, \t, \" or \\", found=literal
        ) from None
