"""Just enough of ELF: which function an address is in, and a shared library without any.

Layouts: System V gABI, chapters "Object Files" and "Dynamic Linking"; ``EM_AARCH64`` from Arm's aaelf64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

EM_AARCH64 = 183
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
READ_WRITE = 6
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME, DT_NULL = 4, 5, 6, 10, 11, 14, 0
SHT_DYNSYM = 11
STT_FUNC = 2
LARGEST_PAGE = 1 << 16

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
ENTRY = struct.Struct("<QQ")
SECTION = np.dtype(
    [("name", "<u4"), ("type", "<u4"), ("flags", "<u8"), ("address", "<u8"), ("offset", "<u8"), ("size", "<u8"),
     ("link", "<u4"), ("info", "<u4"), ("alignment", "<u8"), ("entry", "<u8")]
)  # fmt: skip
SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)


@dataclass(frozen=True)
class Functions:
    """Exported functions of a library, by address.

    Attributes:
        starts: uint64 ``[n]``, ascending, relative to where the library is loaded.
        sizes: uint64 ``[n]``, in bytes.
        names: One for each.
    """

    starts: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]
    names: list[str]

    def covering(self, addresses: npt.NDArray[np.uint64]) -> set[str]:
        """Names of the functions that any of the addresses is in."""
        at = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        known = (at >= 0) & (addresses - self.starts[at] < self.sizes[at])
        return {self.names[i] for i in np.unique(at[known])}


def functions(library: Path) -> Functions:
    """The functions that a 64-bit library exports."""
    data = library.read_bytes()
    fields = HEADER.unpack_from(data)
    sections = np.frombuffer(data, SECTION, fields[12], fields[6])
    (table,) = sections[sections["type"] == SHT_DYNSYM]
    symbols = np.frombuffer(data, SYMBOL, int(table["size"]) // SYMBOL.itemsize, int(table["offset"]))
    symbols = symbols[(symbols["info"] & 15 == STT_FUNC) & (symbols["section"] != 0)]
    symbols = symbols[np.argsort(symbols["value"], kind="stable")]
    strings = int(sections[table["link"]]["offset"])
    begins = [strings + int(name) for name in symbols["name"]]
    names = [data[begin : data.index(b"\0", begin)].decode() for begin in begins]
    return Functions(symbols["value"].copy(), symbols["size"].copy(), names)


def without_functions(name: str) -> bytes:
    """An AArch64 library of that name that exports nothing.

    Whatever needs it loads, and a call of what the true one would have ends the process.
    """
    strings = b"\0" + name.encode() + b"\0"
    n_segments, n_entries = 3, 7
    dynamic = HEADER.size + n_segments * SEGMENT.size
    symbols = dynamic + n_entries * ENTRY.size
    hashes = symbols + SYMBOL.itemsize
    names = hashes + 16
    end = names + len(strings)
    header = HEADER.pack(
        b"\x7fELF\x02\x01\x01", 3, EM_AARCH64, 1, 0, HEADER.size, 0, 0,
        HEADER.size, SEGMENT.size, n_segments, SECTION.itemsize, 0, 0,
    )  # fmt: skip
    segments = b"".join(
        SEGMENT.pack(kind, READ_WRITE, start, start, start, size, size, alignment)
        for kind, start, size, alignment in (
            (PT_LOAD, 0, end, LARGEST_PAGE),
            (PT_DYNAMIC, dynamic, n_entries * ENTRY.size, 8),
            (PT_GNU_STACK, 0, 0, 16),  # without it the stack of the whole process becomes executable
        )
    )
    entries = b"".join(
        ENTRY.pack(*entry)
        for entry in (
            (DT_SONAME, 1), (DT_HASH, hashes), (DT_STRTAB, names), (DT_SYMTAB, symbols),
            (DT_STRSZ, len(strings)), (DT_SYMENT, SYMBOL.itemsize), (DT_NULL, 0),
        )
    )  # fmt: skip
    one_bucket = struct.pack("<IIII", 1, 1, 0, 0)
    return header + segments + entries + bytes(SYMBOL.itemsize) + one_bucket + strings
