"""One GGUF, decided: its tensors with their types and its exact size, before a byte is written."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import onnx_ir as ir
from gguf.gguf_writer import WriterState

from exporter.ir.build import config_of
from exporter.ir.weights import is_quantized
from exporter.resources import anonymous_bytes
from exporter.targets.base import Options, PlannedFile, Progress, StoredTensor, Subject, WrittenFile
from exporter.targets.gguf.capabilities import GgufQuant
from exporter.targets.gguf.encodings import all_types, decoded, encoded_tensor
from exporter.targets.gguf.lower import LoweredTensor, float_weights, lower
from exporter.targets.gguf.metadata import ARCHITECTURE, add_metadata
from exporter.targets.gguf.streams import IN_FLIGHT_WEIGHTS, EncodedTensor, TensorStream, encoded_chunks
from exporter.tensors import RowTensor

FOLDER = "gguf"
_KERNEL_BYTES = 40 << 20
"""Anonymous memory that numba and the compiled kernels take when the first block is encoded (measured: 36 MiB)."""
_BYTES_PER_WEIGHT = 8
"""Anonymous bytes per weight of a chunk in flight: a float32 copy, blocks (measured on SmolLM2: up to 7)."""
_BYTES_PER_ROUNDED_WEIGHT = 32
"""The same where a recipe chooses integers, comparing several candidates (measured on SmolLM2: 32)."""


class GgufPlan:
    """See :class:`exporter.targets.base.Plan`.

    Args:
        subject: Graph (already rewritten by a portable recipe), tokenizer, facts.
        quant: The capability row.
        options: Split size and worker threads.
        encoded: Canonical name -> ggml type of the matrices that llama.cpp's quantizer encodes, whatever the row says.
    """

    def __init__(
        self, subject: Subject, quant: GgufQuant, options: Options, encoded: Mapping[str, str] | None = None
    ) -> None:
        self._subject = subject
        self._quant = quant
        self._options = options
        self._lowered: list[LoweredTensor] = lower(subject.model)
        config = config_of(subject.model)
        energies = {} if subject.calibrated is None else subject.calibrated.energies
        self._encoded = encoded or {}
        types = all_types(quant.ftype, quant.portable, self._lowered, config, calibrated=bool(energies))
        types |= {t.name: self._encoded[t.canonical] for t in self._lowered if t.canonical in self._encoded}
        self._tensors: list[EncodedTensor] = [
            encoded_tensor(t, types[t.name], energies.get(t.canonical)) for t in self._lowered
        ]

    @property
    def model(self) -> ir.Model:
        return self._subject.model

    @cached_property
    def files(self) -> Sequence[PlannedFile]:
        writer, heads = self._opened
        align = writer.data_alignment
        sizes = [
            gguf.GGUFWriter.ggml_pad(len(head), align)
            + sum(gguf.GGUFWriter.ggml_pad(info.nbytes, align) for info in shard.values())
            for head, shard in zip(heads, writer.tensors, strict=True)
        ]
        names = writer.format_shard_names(Path(self._path))
        return [PlannedFile(str(name), size) for name, size in zip(names, sizes, strict=True)]

    @property
    def weight_bytes(self) -> int:
        return sum(t.nbytes for lowered, t in zip(self._lowered, self._tensors, strict=True) if lowered.canonical)

    @property
    def tensors(self) -> Sequence[StoredTensor]:
        return [
            StoredTensor(lowered.canonical, tensor.type_name, lowered.shape, tensor.nbytes)
            for lowered, tensor in zip(self._lowered, self._tensors, strict=True)
            if lowered.canonical
        ]

    @property
    def types(self) -> Mapping[str, str]:
        """GGUF name -> ggml type of every tensor."""
        return {t.name: t.type_name for t in self._tensors}

    @property
    def expected(self) -> Mapping[str, RowTensor]:
        # Where the graph says it, asking the encoders would only prove that they agree with themselves.
        found = float_weights(self._subject.model) if self._quant.portable else {}
        return found | {
            lowered.canonical: decoded(tensor, lowered.shape)
            for lowered, tensor in zip(self._lowered, self._tensors, strict=True)
            if lowered.canonical and (not self._quant.portable or lowered.canonical in self._encoded)
        }

    @property
    def peak_bytes(self) -> int:
        largest = max(int(np.prod(t.shape)) for t in self._lowered)
        rounded = any(is_quantized(t.weight) for t in self._lowered)
        each = _BYTES_PER_ROUNDED_WEIGHT if rounded else _BYTES_PER_WEIGHT
        in_flight = min(IN_FLIGHT_WEIGHTS, (self._options.jobs + 2) * largest) * each
        # What reading this source has taken so far is known exactly: no other number covers torch and a vocabulary.
        return anonymous_bytes() + _KERNEL_BYTES + in_flight

    @property
    def notes(self) -> Sequence[str]:
        return ()

    @property
    def requires(self) -> Mapping[str, Any]:
        return {}

    def write(self, folder: Path, progress: Progress) -> list[WrittenFile]:
        planned = self.files
        writer, heads = self._opened
        untyped: Any = writer  # its annotations name the concrete types it makes itself
        (folder / self._path).parent.mkdir(parents=True, exist_ok=True)
        sinks = [_HashingFile(folder / file.path) for file in planned]
        try:
            for sink, head in zip(sinks, heads, strict=True):
                sink.write(head)
            untyped.fout = sinks
            jobs = self._options.jobs
            chunks = encoded_chunks(self._tensors, jobs)
            for tensor in self._tensors:
                untyped.write_tensor_data(TensorStream(tensor, chunks, jobs, progress))
        finally:
            for sink in sinks:
                sink.close()
        return [
            WrittenFile(file.path, sink.tell(), sink.hexdigest()) for file, sink in zip(planned, sinks, strict=True)
        ]

    @property
    def _path(self) -> str:
        return f"{FOLDER}/{self._subject.info.name}-{self._quant.name.upper()}.gguf"

    @cached_property
    def _opened(self) -> tuple[gguf.GGUFWriter, list[bytes]]:
        """The writer with every key and tensor declared, and the head of each file as it packed it.

        Packing a 128k vocabulary takes a second, and sizes, names and writing all need it: once is enough.
        """
        config = config_of(self._subject.model)
        writer = gguf.GGUFWriter(path=None, arch=ARCHITECTURE, split_max_size=self._options.split_max_bytes or 0)
        n_params = sum(int(np.prod(t.shape)) for t in self._lowered if t.canonical)
        add_metadata(writer, self._subject, config, self._quant.ftype, n_params)
        for lowered, tensor in zip(self._lowered, self._tensors, strict=True):
            raw_type = gguf.GGMLQuantizationType[tensor.type_name]
            writer.add_tensor_info(tensor.name, lowered.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=raw_type)
        # The writer takes our files instead of opening its own: memory first, then files that hash what passes.
        sinks = [io.BytesIO() for _ in writer.tensors]
        untyped: Any = writer
        untyped.fout = sinks
        writer.state = WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        return writer, [sink.getvalue() for sink in sinks]


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
