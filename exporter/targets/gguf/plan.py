"""One GGUF, decided: its tensors with their types and its exact size, before a byte is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import onnx_ir as ir
from gguf.gguf_writer import WriterState

from exporter.ir.build import config_of
from exporter.targets.base import Options, PlannedFile, Progress, Subject, WrittenFile
from exporter.targets.gguf.capabilities import GgufQuant
from exporter.targets.gguf.encodings import all_types, decoded, encoded_tensor
from exporter.targets.gguf.lower import LoweredTensor, lower
from exporter.targets.gguf.metadata import ARCHITECTURE, add_metadata
from exporter.targets.gguf.streams import CHUNK_BYTES, EncodedTensor, TensorStream, encoded_chunks
from exporter.tensors import RowTensor

FOLDER = "gguf"
_IMPORTS_BYTES = 190 << 20
"""Anonymous memory of the process before it encodes anything (measured: Python, numpy, numba, onnx)."""
_CHUNK_COPIES = 8
"""Copies of a chunk alive at once per worker, widened to float32 (measured)."""


class GgufPlan:
    """See :class:`exporter.targets.base.Plan`.

    Args:
        subject: Graph (already rewritten by a portable recipe), tokenizer, facts.
        quant: The capability row.
        options: Split size and worker threads.
    """

    def __init__(self, subject: Subject, quant: GgufQuant, options: Options) -> None:
        self._subject = subject
        self._quant = quant
        self._options = options
        self._lowered: list[LoweredTensor] = lower(subject.model)
        config = config_of(subject.model)
        types = all_types(quant.ftype, quant.portable, self._lowered, config)
        self._tensors: list[EncodedTensor] = [encoded_tensor(t, types[t.name]) for t in self._lowered]

    @property
    def model(self) -> ir.Model:
        return self._subject.model

    @cached_property
    def files(self) -> Sequence[PlannedFile]:
        writer = self._writer()
        sinks = [_CountingSink() for _ in writer.tensors]
        _attach(writer, sinks)
        sizes = []
        shards = [list(shard.values()) for shard in writer.tensors]
        _write_head(writer)
        for sink, infos in zip(sinks, shards, strict=True):
            padded = [gguf.GGUFWriter.ggml_pad(info.nbytes, writer.data_alignment) for info in infos]
            head = gguf.GGUFWriter.ggml_pad(sink.tell(), writer.data_alignment)
            sizes.append(head + sum(padded))
        names = writer.format_shard_names(Path(self._path))
        return [PlannedFile(str(name), size) for name, size in zip(names, sizes, strict=True)]

    @property
    def weight_bytes(self) -> int:
        return sum(t.nbytes for t in self._tensors)

    @property
    def types(self) -> Mapping[str, str]:
        """GGUF name -> ggml type of every tensor."""
        return {t.name: t.type_name for t in self._tensors}

    @property
    def expected(self) -> Mapping[str, RowTensor]:
        return {
            lowered.canonical: decoded(tensor, lowered.shape)
            for lowered, tensor in zip(self._lowered, self._tensors, strict=True)
            if lowered.canonical
        }

    @property
    def peak_bytes(self) -> int:
        return _IMPORTS_BYTES + (self._options.jobs + 2) * _CHUNK_COPIES * CHUNK_BYTES

    def write(self, folder: Path, progress: Progress) -> list[WrittenFile]:
        writer = self._writer()
        path = folder / self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        names = writer.format_shard_names(path)
        sinks = [_HashingFile(name) for name in names]
        try:
            _attach(writer, sinks)
            _write_head(writer)
            chunks = encoded_chunks(self._tensors, self._options.jobs)
            for tensor in self._tensors:
                writer.write_tensor_data(TensorStream(tensor, chunks, progress))
        finally:
            for sink in sinks:
                sink.close()
        return [
            WrittenFile(str(name.relative_to(folder)), sink.tell(), sink.hexdigest())
            for name, sink in zip(names, sinks, strict=True)
        ]

    @property
    def _path(self) -> str:
        return f"{FOLDER}/{self._subject.info.name}-{self._quant.name.upper()}.gguf"

    def _writer(self) -> gguf.GGUFWriter:
        config = config_of(self._subject.model)
        split = self._options.split_max_bytes or 0
        writer = gguf.GGUFWriter(path=None, arch=ARCHITECTURE, split_max_size=split)
        n_params = sum(int(np.prod(t.shape)) for t in self._lowered if t.canonical)
        add_metadata(writer, self._subject, config, self._quant.ftype, n_params)
        for lowered, tensor in zip(self._lowered, self._tensors, strict=True):
            raw_type = gguf.GGMLQuantizationType[tensor.type_name]
            writer.add_tensor_info(tensor.name, lowered.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=raw_type)
        return writer


def _attach(writer: gguf.GGUFWriter, sinks: Sequence[Any]) -> None:
    """Give the writer our files instead of letting it open its own: one to hash what passes, one to count it."""
    writer.fout = list(sinks)
    writer.state = WriterState.EMPTY


def _write_head(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


class _CountingSink:
    """A file that keeps nothing but its length."""

    def __init__(self) -> None:
        self._size = 0

    def write(self, data: bytes) -> int:
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None: ...


class _HashingFile:
    """A file being written whose SHA-256 is known when it ends, without reading it again."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        self._file.write(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()
