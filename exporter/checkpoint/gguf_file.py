"""The GGUF container: a header of typed key/value pairs and tensor descriptions, then the tensors' bytes.

Source: ``docs/gguf.md`` in ggml-org/ggml; type numbers and block sizes from gguf-py's ``constants.py``. Parsed here
because gguf-py's ``GGUFReader`` makes numpy objects of every vocabulary entry, which takes seconds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from exporter.checkpoint.fields import Fields
from exporter.checkpoint.mapped import Bytes, map_file
from exporter.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
"""``GGML_MAX_DIMS`` in ggml.h."""

_FORMATS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.FLOAT64: "<d",
    GGUFValueType.BOOL: "<?",
}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        name: The file's own name, e.g. ``blk.0.attn_q.weight``.
        type: ggml type of the elements.
        shape: Outermost axis first (the file lists the innermost first).
        offset: First byte, counted from the start of the file.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row along the innermost axis, all that a row of a matrix or an element of a vector needs."""
        block, size = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape[1:]) // block * size if len(self.shape) > 1 else size

    @property
    def nbytes(self) -> int:
        return self.row_nbytes * self.shape[0]


class Metadata(Mapping[str, Any]):
    """The key/value pairs, each decoded when somebody asks: half a million strings of a vocabulary cost nothing
    until the tokenizer is loaded."""

    def __init__(self, cursor: _Cursor, positions: Mapping[str, int]) -> None:
        self._cursor = cursor
        self._positions = positions

    def __getitem__(self, key: str) -> Any:
        return self._cursor.at(self._positions[key]).value()

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


@dataclass(frozen=True)
class GgufFile:
    """One parsed file.

    Attributes:
        path: The file.
        metadata: Key -> value, lazily.
        tensors: Name -> where it lies.
        data: All bytes of the file, mapped.
    """

    path: Path
    metadata: Metadata
    tensors: Mapping[str, StoredTensor]
    data: Bytes


def read_gguf(path: Path) -> GgufFile:
    """Parse the header of one file; reads no tensor.

    Raises:
        CheckpointError: Not a GGUF file, another version or byte order, truncated, or a tensor stored twice.
    """
    data = map_file(path)
    cursor = _Cursor(path, data, 0)
    magic = cursor.take(4)
    version = cursor.number("<I")
    if magic != MAGIC or version not in VERSIONS:
        raise CheckpointError(
            f"{path} is not a GGUF file of a known version",
            expected=f"GGUF, version {' or '.join(map(str, VERSIONS))}, little-endian",
            found=f"{magic!r}, version {version}",
            hint="convert it with a current llama.cpp",
        )
    n_tensors, n_pairs = cursor.number("<Q"), cursor.number("<Q")
    positions: dict[str, int] = {}
    for _ in range(n_pairs):
        key = cursor.string()
        positions[key] = cursor.position
        cursor.skip_value()
    metadata = Metadata(cursor, positions)
    described = [cursor.tensor() for _ in range(n_tensors)]
    alignment = Fields(metadata, path).integer("general.alignment", DEFAULT_ALIGNMENT) or DEFAULT_ALIGNMENT
    start = -(-cursor.position // alignment) * alignment
    tensors = {t.name: StoredTensor(t.name, t.type, t.shape, start + t.offset) for t in described}
    if len(tensors) < n_tensors:
        raise CheckpointError(f"{path} stores a tensor twice", expected=f"{n_tensors} names", found=len(tensors))
    end = max((t.offset + t.nbytes for t in tensors.values()), default=0)
    if end > len(data):
        raise _truncated(path, end, len(data))
    return GgufFile(path, metadata, tensors, data)


class _Cursor:
    """A position in the mapped bytes that moves as values are read."""

    def __init__(self, path: Path, data: Bytes, position: int) -> None:
        self.path = path
        self.data = data
        self.position = position
        self._view = data.data

    def at(self, position: int) -> _Cursor:
        """Another cursor over the same bytes."""
        return _Cursor(self.path, self.data, position)

    def take(self, size: int) -> bytes:
        start = self.position
        self._advance(size)
        return self._view[start : self.position].tobytes()

    def number(self, form: str) -> Any:
        start = self.position
        self._advance(struct.calcsize(form))
        return struct.unpack_from(form, self._view, start)[0]

    def string(self) -> str:
        raw = self.take(self.number("<Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path} has a malformed header", expected="UTF-8", found=repr(raw)) from None

    def value(self) -> Any:
        """The typed value here, decoded."""
        return self._value_of(self._value_type())

    def skip_value(self) -> None:
        """Step over the typed value here."""
        self._skip(self._value_type())

    def tensor(self) -> StoredTensor:
        """The tensor description here; its offset still counts from the start of the data section."""
        name = self.string()
        n_dims = self.number("<I")
        if not 1 <= n_dims <= MAX_DIMS:
            raise CheckpointError(
                f"{self.path}: tensor {name} has an impossible shape", expected=f"1 to {MAX_DIMS} axes", found=n_dims
            )
        shape = tuple(self.number("<Q") for _ in range(n_dims))[::-1]
        number = self.number("<I")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise CheckpointError(
                f"{self.path}: tensor {name} has an unknown type", expected="a ggml type", found=number
            ) from None
        block, _ = GGML_QUANT_SIZES[kind]
        if shape[-1] % block or (block > 1 and n_dims == 1):
            raise CheckpointError(
                f"{self.path}: rows of tensor {name} are no whole {kind.name} blocks",
                expected=f"a matrix with a multiple of {block} columns",
                found=list(shape),
            )
        return StoredTensor(name, kind, shape, self.number("<Q"))

    def _value_type(self) -> GGUFValueType:
        number = self.number("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise CheckpointError(
                f"{self.path} has a malformed header", expected="a GGUF value type", found=number
            ) from None

    def _value_of(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind != GGUFValueType.ARRAY:
            return self.number(_FORMATS[kind])
        item, count = self._value_type(), self.number("<Q")
        if item not in _FORMATS:
            return [self._value_of(item) for _ in range(count)]
        dtype = np.dtype(_FORMATS[item])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def _skip(self, kind: GGUFValueType) -> None:
        if kind == GGUFValueType.STRING:
            self._advance(self.number("<Q"))
        elif kind != GGUFValueType.ARRAY:
            self._advance(struct.calcsize(_FORMATS[kind]))
        else:
            item, count = self._value_type(), self.number("<Q")
            if item in _FORMATS:
                self._advance(count * struct.calcsize(_FORMATS[item]))
            for _ in range(0 if item in _FORMATS else count):
                self._skip(item)

    def _advance(self, size: int) -> None:
        self.position += size
        if self.position > len(self._view):
            raise _truncated(self.path, self.position, len(self._view))


def _truncated(path: Path, needed: int, found: int) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated",
        expected=f"at least {needed:,} bytes",
        found=f"{found:,} bytes",
        hint="download the file again",
    )
