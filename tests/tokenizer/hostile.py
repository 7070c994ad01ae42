"""The hostile text set: the probe that ships with the package, and what only a test has the time for."""

from __future__ import annotations

import random

from exporter.tokenizer.probe import probe_texts, random_texts

SEED = 3_2_1
CASE_FOLDED = ("'ſ", "x'ſ 'ſa", "'K 'ſſ", "\x85a \x85\x85 \u180ea")
"""Characters that a case-insensitive regex folds into ASCII; llama.cpp's hand-folded ``[sS]`` does not."""

PLANES = ((0x20, 0x500), (0x500, 0x3000), (0x3000, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000))


def periodic_texts(count: int) -> list[str]:
    """A few characters over and over: where equal joins overlap, their order shows."""
    source = random.Random(SEED)
    units = ("".join(source.choices("ab=-. \n\tx", k=source.randint(1, 4))) for _ in range(count))
    return [(unit * 40)[: source.randint(1, 120)] for unit in units]


def any_characters(count: int) -> list[str]:
    """Characters of all planes, assigned or not, surrogates excepted."""
    source = random.Random(SEED + 1)
    return ["".join(chr(source.randrange(*source.choice(PLANES))) for _ in range(30)) for _ in range(count)]


def hostile_texts() -> list[str]:
    """About a thousand texts, the same in every run."""
    generated = [*random_texts(SEED, 300, longest=80), *periodic_texts(300), *any_characters(150)]
    return [*probe_texts(), *CASE_FOLDED, *generated]
