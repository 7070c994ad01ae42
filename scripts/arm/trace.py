"""What a traced program ran: instructions of Arm's extensions for matrices, and KleidiAI's kernels by name.

QEMU's ``-d in_asm`` writes down each block of code once, before it runs for the first time. Its disassembler does not
know the newer instructions, so that these are recognised by their bits (Arm ARM, DDI 0487, C7.2).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scripts.arm import elf

EXTENSIONS: Mapping[str, Sequence[tuple[int, int]]] = {
    "dotprod": (
        (0x9FE0FC00, 0x0E809400),  # SDOT, UDOT (vector)
        (0x9FC0F400, 0x0F80E000),  # SDOT, UDOT (by element)
    ),
    "i8mm": ((0xDFE0F400, 0x4E80A400),),  # SMMLA, UMMLA, USMMLA
    "sme": ((0xFFFFF0FF, 0xD503407F),),  # SMSTART, SMSTOP
}
"""Extension -> the bits that count, and what they are."""

KERNEL = "kai_run_matmul_clamp_"
"""What the names of KleidiAI's kernels for matrices begin with."""

_LINE = re.compile(rb"^0x([0-9a-f]+):  ([0-9a-f]{8})", re.MULTILINE)


@dataclass(frozen=True)
class Trace:
    """See the module.

    Attributes:
        extensions: Those of :data:`EXTENSIONS` of which an instruction ran in the library.
        kernels: Functions of KleidiAI that ran, without :data:`KERNEL`.
    """

    extensions: frozenset[str]
    kernels: frozenset[str]


def read(folder: Path, library: str) -> Trace:
    """What ran in a library.

    Args:
        folder: Of the traces: one ``<pid>.log`` and one ``<pid>.maps`` for each process.
        library: Pattern of its file's name.

    Raises:
        AssertionError: If nothing did.
    """
    extensions, kernels = set[str](), set[str]()
    n_instructions = 0
    for maps in folder.glob("*.maps"):
        path, begin, end = _mapping(maps, library)
        addresses, words = _instructions(maps.with_suffix(".log"), begin, end)
        n_instructions += len(words)
        extensions |= {name for name, patterns in EXTENSIONS.items() if _any(words, patterns)}
        kernels |= {name for name in elf.functions(path).covering(addresses - np.uint64(begin)) if KERNEL in name}
    assert n_instructions, f"nothing of {library} ran"
    return Trace(frozenset(extensions), frozenset(name.removeprefix(KERNEL) for name in kernels))


def _mapping(maps: Path, library: str) -> tuple[Path, int, int]:
    """File, first and last address of a library, from ``/proc/self/maps``."""
    lines = [line.split() for line in maps.read_text(encoding="ascii").splitlines()]
    found = [(Path(fields[5]), *fields[0].split("-")) for fields in lines if len(fields) > 5]
    own = [(path, int(begin, 16), int(end, 16)) for path, begin, end in found if path.match(library)]
    return own[0][0], min(begin for _, begin, _ in own), max(end for _, _, end in own)


def _instructions(log: Path, begin: int, end: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Addresses and words of the instructions of a log that lie in a range."""
    with log.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = np.array(list(_within(text, begin, end)), np.uint64).reshape(-1, 2)
    return found[:, 0], found[:, 1].astype(np.uint32)


def _within(text: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int]]:
    for line in _LINE.finditer(text):
        if begin <= (address := int(line[1], 16)) < end:
            yield address, int(line[2], 16)


def _any(words: npt.NDArray[np.uint32], patterns: Sequence[tuple[int, int]]) -> bool:
    return any(bool((words & np.uint32(mask) == np.uint32(value)).any()) for mask, value in patterns)
