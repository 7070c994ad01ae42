"""How a text is cut into words before byte-level BPE: the regex chains and the names llama.cpp has for them.

Each regex of a chain cuts what the one before it left; matches and the gaps between them all become words. Hugging
Face spells a chain as structure (``tokenizer.json``), GGUF as a name (``tokenizer.ggml.pre``) that also implies two
flags. Sources: llama.cpp ``src/llama-vocab.cpp`` (names, flags, the original regexes in its comments), tokenizers
``pre_tokenizers/byte_level.rs`` (GPT-2's regex) and ``digits.rs``, Meta's ``llama3/tokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import TokenizerError

DIGIT = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
QWEN2 = rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)


@dataclass(frozen=True)
class PreTokenizer:
    """One pre-tokenizer that llama.cpp knows.

    Attributes:
        name: Value of ``tokenizer.ggml.pre``.
        regexes: The chain, in Oniguruma / ``regex`` syntax.
        ignore_merges: A word that is a piece becomes that piece, whatever the merges say.
        add_bos: llama.cpp's default where ``tokenizer.ggml.add_bos_token`` is absent.
    """

    name: str
    regexes: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("llama-bpe", (LLAMA3,), ignore_merges=True, add_bos=True),
    PreTokenizer("llama3", (LLAMA3,), ignore_merges=True, add_bos=True),
    PreTokenizer("llama-v3", (LLAMA3,), ignore_merges=True, add_bos=True),
    PreTokenizer("falcon3", (LLAMA3,), ignore_merges=True, add_bos=True),
    PreTokenizer("smaug-bpe", (LLAMA3,)),
    PreTokenizer("dbrx", (LLAMA3,)),
    PreTokenizer("smollm", (DIGIT, GPT2)),
    PreTokenizer("starcoder", (DIGIT, GPT2)),
    PreTokenizer("refact", (DIGIT, GPT2)),
    PreTokenizer("command-r", (DIGIT, GPT2)),
    PreTokenizer("gpt-2", (GPT2,)),
    PreTokenizer("mpt", (GPT2,)),
    PreTokenizer("olmo", (GPT2,)),
    PreTokenizer("qwen2", (QWEN2,)),
    PreTokenizer("deepseek-r1-qwen", (QWEN2,)),
    PreTokenizer("stablelm2", (QWEN2,)),
    PreTokenizer("tekken", (TEKKEN,), ignore_merges=True, add_bos=True),
    PreTokenizer("gpt-4o", (GPT4O,)),
    PreTokenizer("llama4", (GPT4O,)),
)
"""Of several names for the same behaviour the first is the one a Hugging Face source gets."""

BY_NAME: Mapping[str, PreTokenizer] = {entry.name: entry for entry in PRE_TOKENIZERS}


def by_name(name: str) -> PreTokenizer:
    """The pre-tokenizer that GGUF calls ``name``.

    Raises:
        TokenizerError: llama.cpp may know the name, this table does not.
    """
    if name in BY_NAME:
        return BY_NAME[name]
    raise TokenizerError(
        "the pre-tokenizer named by tokenizer.ggml.pre is unknown",
        expected=f"one of {', '.join(BY_NAME)}",
        found=repr(name),
        hint="export from the original Hugging Face or Meta checkpoint instead of this GGUF"
        if name in ("", "default")
        else "this model's pre-tokenizer has to be added to exporter/tokenizer/pretokenizers.py",
    )


def detect(pre_tokenizer: Mapping[str, Any], ignore_merges: bool) -> PreTokenizer:
    """The pre-tokenizer that a ``tokenizer.json`` spells out.

    Args:
        pre_tokenizer: The file's ``pre_tokenizer`` object.
        ignore_merges: The file's ``model.ignore_merges``.

    Raises:
        TokenizerError: The structure or its regexes have no name in llama.cpp's table.
    """
    regexes = _chain(pre_tokenizer)
    for entry in PRE_TOKENIZERS:
        if entry.regexes == regexes and entry.ignore_merges == ignore_merges:
            return entry
    raise TokenizerError(
        "the pre-tokenizer in tokenizer.json is none that llama.cpp has a name for",
        expected=f"the regexes of one of {', '.join(BY_NAME)}",
        found=f"{' then '.join(regexes)} (ignore_merges {str(ignore_merges).lower()})",
        hint="under a wrong name every text would be cut differently; check for a customised tokenizer.json",
    )


def _chain(node: Mapping[str, Any]) -> tuple[str, ...]:
    kind = str(node.get("type"))
    if kind not in _STEPS:
        raise TokenizerError(
            "tokenizer.json has a pre-tokenizer step that byte-level Llama tokenizers do not use",
            expected=f"one of {', '.join(_STEPS)}",
            found=kind,
            hint="only the tokenizers of Llama-architecture models are supported",
        )
    return _STEPS[kind](node)


def _split(node: Mapping[str, Any]) -> tuple[str, ...]:
    pattern = node.get("pattern", {}).get("Regex")
    if pattern is None or node.get("behavior") != "Isolated" or node.get("invert"):
        raise TokenizerError(
            "tokenizer.json splits words in a way that llama.cpp cannot",
            expected='{"pattern": {"Regex": …}, "behavior": "Isolated", "invert": false}',
            found={key: node.get(key) for key in ("pattern", "behavior", "invert")},
        )
    return (pattern,)


def _digits(node: Mapping[str, Any]) -> tuple[str, ...]:
    return (DIGIT,) if node.get("individual_digits") else (DIGIT + "+",)


def _byte_level(node: Mapping[str, Any]) -> tuple[str, ...]:
    if node.get("add_prefix_space"):
        raise TokenizerError(
            "tokenizer.json puts a space before every text, which byte-level GGUF vocabularies cannot say",
            expected='"add_prefix_space": false',
            found='"add_prefix_space": true',
        )
    return (GPT2,) if node.get("use_regex", True) else ()


def _sequence(node: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(regex for step in node.get("pretokenizers", ()) for regex in _chain(step))


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, ...]]] = {
    "Split": _split,
    "Digits": _digits,
    "ByteLevel": _byte_level,
    "Sequence": _sequence,
}
