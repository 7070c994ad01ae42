"""Grammars and the tokens that are needed to say what they allow."""

from __future__ import annotations

import itertools
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.prune_guard import recipes
from exporter.prune_guard.grammar import GrammarError, parse
from exporter.prune_guard.guard import sayable_tokens
from exporter.prune_guard.kept_tokens import read_kept_tokens, tokens_of_grammar
from exporter.tokenizer import Tokenizer, load_tokenizer_folder
from tests.fixtures import downloads

PUBLISHED = (16, 17, 18, 19, 20, 21, 22, 23, 24, 50, 198, 271, 605, 717, 806, 1032, 19193, 21861, 39257, 128009)
"""The rows that Llama Guard 3-1B-INT4 kept, of Llama 3's vocabulary."""


@cache
def llama3() -> Tokenizer:
    return load_tokenizer_folder(downloads.llama3_tokenizer_model().parent)


# --- What a grammar says -----------------------------------------------------------------------------------------


def test_words_pairs_and_ends_of_an_expression() -> None:
    language = parse('root ::= "a"? ("b" | "c" "d"*) tail\ntail ::= "e"+ | "f" # the end\n')
    assert language.words == ("a", "b", "c", "d", "e", "f")
    assert language.first == {"a", "b", "c"}
    assert language.last == {"e", "f"}
    assert not language.empty
    expected = "ab ac cd dd be bf ce cf de df ee"
    assert language.pairs == {tuple(pair) for pair in expected.split()}


def test_a_rule_may_span_lines_and_words_may_have_escapes() -> None:
    language = parse('root ::= "\\n" |\n  "\\"" |\n  "#"\n')
    assert language.words == ("\n", '"', "#")


def test_an_expression_that_may_be_empty_says_so() -> None:
    assert parse('root ::= "a"* "b"?').empty


@given(st.recursive(
    st.sampled_from("abc").map(lambda word: (f'"{word}"', {word})),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]} {p[1][0]})", {x + y for x in p[0][1] for y in p[1][1]})),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]} | {p[1][0]})", p[0][1] | p[1][1])),
        inner.map(lambda p: (f"({p[0]})?", p[1] | {""})),
    ),
    max_leaves=6,
))  # fmt: skip
def test_first_last_and_pairs_are_those_of_all_strings(case: tuple[str, set[str]]) -> None:
    text, strings = case
    language = parse(f"root ::= {text}")
    assert language.first == {s[0] for s in strings if s}
    assert language.last == {s[-1] for s in strings if s}
    assert language.pairs == {pair for s in strings for pair in itertools.pairwise(s)}
    assert language.empty == ("" in strings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rule root"),
        ('other ::= "a"', "no rule root"),
        ("root ::= ", "no words"),
        ('root ::= ""', "no words"),
        ("root ::= [a-z]+", "cannot be read at line 1"),
        ('# comment\n"a"', "cannot be read at line 2"),
        ('root ::= "a" root', "recursive"),
        ('root ::= a\na ::= "x" b\nb ::= a', "recursive"),
        ("root ::= missing", "not there"),
        ('root ::= ("a"', r"lacks a \)"),
        ('root ::= "a")', r"a \) too many"),
        ('root ::= * "a"', "repeats nothing"),
        ('root ::= "a"\nroot ::= "b"', "twice"),
        (r'root ::= "\q"', "unknown escape"),
        ('root ::= "unclosed', "cannot be read"),
    ],
)
def test_what_is_no_grammar_is_refused(text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        parse(text)


@given(st.text(st.sampled_from('ab"|()?*+:= \n\\#[]')))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse(f"root ::= {text}")
    except GrammarError as error:
        assert error.message


# --- The guard's tokens ------------------------------------------------------------------------------------------


def test_the_recipes_tokens_are_the_published_ones() -> None:
    language = recipes.get("llama-guard-3-1b-int4").language()
    assert tokens_of_grammar(language, llama3()) == PUBLISHED


def test_a_guard_can_say_exactly_these() -> None:
    assert tuple(sayable_tokens(llama3())) == PUBLISHED


def test_words_that_are_several_tokens_are_refused_by_name() -> None:
    with pytest.raises(GrammarError, match="2 words of the grammar are not single tokens") as caught:
        tokens_of_grammar(parse('root ::= "unsafe" | "unsafely" | "S13"'), llama3())
    assert "'unsafely' is 3: 'uns' 'af' 'ely'" in str(caught.value.found)
    assert caught.value.hint is not None and "--keep-tokens" in caught.value.hint


def test_words_that_the_tokenizer_joins_are_refused() -> None:
    with pytest.raises(GrammarError, match="cuts some words of the grammar differently") as caught:
        tokens_of_grammar(parse('root ::= "S" "1" ("," "S" "1")*'), llama3())
    assert "',' and 'S' become ',S'" in str(caught.value.found)


def test_a_text_keeps_the_tokens_it_is_cut_into(tmp_path: Path) -> None:
    file = tmp_path / "answers.txt"
    file.write_text("unsafely\nsafe")
    kept = read_kept_tokens(file, llama3())
    assert kept == tuple(sorted({*llama3().encode("unsafely\nsafe"), 128009}))


def test_a_grammar_file_is_recognised_by_its_name(tmp_path: Path) -> None:
    grammar = resources.files("exporter").joinpath("data/llama_guard.gbnf").read_text(encoding="utf-8")
    (tmp_path / "guard.gbnf").write_text(grammar)
    assert read_kept_tokens(tmp_path / "guard.gbnf", llama3()) == PUBLISHED


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"], ids=["empty", "blank", "no UTF-8"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(GrammarError, match=r"is empty|cannot be read"):
        read_kept_tokens(tmp_path / "x.txt", llama3())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match="cannot be read"):
        read_kept_tokens(tmp_path / "absent.gbnf", llama3())
