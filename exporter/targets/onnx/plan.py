"""One variant, decided: its graph, where its weights lie, and the exact size of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporter.errors import ExporterError, TargetError
from exporter.ir.build import config_of
from exporter.quant.allocation.types import resolve
from exporter.quant.apply import apply_recipe
from exporter.quant.calibration.use import Calibrated
from exporter.quant.schemes import WeightType
from exporter.resources import anonymous_bytes
from exporter.targets.base import Options, PlannedFile, Progress, StoredTensor, Subject, WrittenFile
from exporter.targets.hf_files import model_config
from exporter.targets.onnx import browser, layout, names, repository
from exporter.targets.onnx.capabilities import PREFERENCE, QUANTS, OnnxQuant
from exporter.targets.onnx.lower import Lowered, lower
from exporter.targets.onnx.weights import INTS
from exporter.targets.stored import stored_tensors
from exporter.tensors import CHUNK_WEIGHTS, RowTensor

_KERNEL_BYTES = 40 << 20
"""Anonymous memory of numba and the compiled kernels (measured for the GGUF target: 36 MiB)."""
_BYTES_PER_WEIGHT = 12
"""Anonymous bytes per weight of a chunk in flight (measured on SmolLM2: what one more worker takes)."""


class Variant:
    """A graph as one capability row lowers it, laid out in files.

    Attributes:
        quant: The capability row.
        model: The graph after the row's recipe.
        name: File name of the model.
        lowered: The ONNX graph and its weights.
        placed: Where each weight lies.
    """

    def __init__(
        self,
        source: ir.Model,
        quant: OnnxQuant,
        calibrated: Calibrated | None = None,
        types: Mapping[str, WeightType] | None = None,
    ) -> None:
        self.quant = quant
        self.model = apply_recipe(source.clone(), quant.recipe.with_types(types or {}), calibrated=calibrated)
        self.name = quant.file_name
        self.lowered: Lowered = lower(self.model, quant.activations)
        self.placed = layout.place(self.lowered.weights, layout.MAX_FILE_BYTES)

    @property
    def data_files(self) -> list[PlannedFile]:
        return layout.data_files(self.placed, f"{repository.MODELS}/{self.name}")

    def serialized(self) -> bytes:
        """The model file, with every weight pointing into a data file."""
        initializers = self.lowered.model.graph.initializers
        for at in self.placed:
            for blob, offset in zip(at.weight.blobs, at.offsets, strict=True):
                initializers[blob.name].const_value = ir.ExternalTensor(
                    layout.data_name(self.name, at.file), offset, blob.nbytes, blob.dtype,
                    shape=ir.Shape(blob.shape), name=blob.name,
                )  # fmt: skip
        proto = ir.to_proto(self.lowered.model)
        data: bytes = proto.SerializeToString(deterministic=True)
        return data


def data_file_counts(source: ir.Model) -> dict[str, int]:
    """Model file name -> number of data files, of every variant that the model can have.

    All of them, exported or not: the repository's ``config.json`` then is the same whatever is added to the folder.
    """
    counts: dict[str, int] = {}
    for quant in {row.suffix: row for row in QUANTS.values()}.values():
        try:
            variant = Variant(source, quant)
        except ExporterError:
            continue  # asked for, it is refused with this error
        counts[variant.name] = len(variant.data_files)
    return counts


def _require_fits(source: ir.Model, variant: Variant) -> None:
    """Refuse a variant that is too large for a browser, and name the best one that is not."""
    needed = browser.heap_bytes(variant.lowered)
    if needed <= browser.HEAP_BYTES:
        return
    fitting = next((name for name in PREFERENCE if _fits(source, QUANTS[name])), None)
    instead = f"--quant {fitting} fits; " if fitting else "no variant of this model fits: --target gguf; "
    raise TargetError(
        f"{variant.name} is too large for a browser",
        expected=f"at most {browser.HEAP_BYTES / 1e9:.1f} GB, which is what WebAssembly addresses",
        found=f"{needed / 1e9:.1f} GB with what its kernels unpack",
        hint=f"{instead}--no-browser exports it for Node.js and ONNX Runtime",
    )


def _fits(source: ir.Model, quant: OnnxQuant) -> bool:
    try:
        return browser.heap_bytes(Variant(source, quant).lowered) <= browser.HEAP_BYTES
    except ExporterError:
        return False


class OnnxPlan:
    """See :class:`exporter.targets.base.Plan`.

    Args:
        subject: Unquantized graph, tokenizer, facts.
        quant: The capability row.
        options: Worker threads.

    Raises:
        GraphError, TargetError: If the row cannot hold this model.
    """

    def __init__(self, subject: Subject, quant: OnnxQuant, options: Options) -> None:
        self._subject = subject
        self._options = options
        types = resolve(subject.model, quant.name, quant.types, options.types)
        self.variant = Variant(subject.model, quant, subject.calibrated, types)
        browser.require_operators(self.variant.lowered)
        if options.browser:
            _require_fits(subject.model, self.variant)
        # Refused now rather than after the work.
        model_config(config_of(subject.model), subject.tokenizer)

    @property
    def model(self) -> ir.Model:
        return self.variant.model

    @cached_property
    def files(self) -> Sequence[PlannedFile]:
        return [PlannedFile(self._path, len(self._bytes)), *self.variant.data_files]

    @property
    def weight_bytes(self) -> int:
        weights = self.variant.lowered.weights
        return sum(w.nbytes for w in weights if not w.blobs[0].name.endswith("_cache"))

    @property
    def tensors(self) -> Sequence[StoredTensor]:
        parameters = self.expected
        found: dict[str, int] = {}
        for weight in self.variant.lowered.weights:
            parts = names.parts(weight.blobs[0].name.removesuffix(INTS))
            # Matrices that were stacked have the same encoding, so that each row of them takes the same bytes.
            rows = {name: parameters[name].n_rows for name in parts if name in parameters}
            found |= {name: weight.nbytes * n // sum(rows.values()) for name, n in rows.items()}
        return [*stored_tensors(self.model, parameters, found, ir.DataType.FLOAT16)]

    @property
    def expected(self) -> Mapping[str, RowTensor]:
        return self.variant.lowered.parameters

    @property
    def peak_bytes(self) -> int:
        weights = self.variant.lowered.weights
        waiting = max(sum(blob.nbytes for blob in w.blobs[1:]) for w in weights)
        # A matrix that is made in one piece is in memory as a whole, and so are those that threads make ahead.
        whole = sorted(w.nbytes for w in weights if len(w.tasks) == 1)[-(self._options.jobs + 2) :]
        return (
            anonymous_bytes()
            + _KERNEL_BYTES
            + (self._options.jobs + 2) * CHUNK_WEIGHTS * _BYTES_PER_WEIGHT
            + max(waiting, sum(whole))
        )

    @property
    def notes(self) -> Sequence[str]:
        return ()

    @property
    def requires(self) -> Mapping[str, Any]:
        return {}

    def write(self, folder: Path, progress: Progress) -> list[WrittenFile]:
        (folder / repository.MODELS).mkdir(parents=True, exist_ok=True)
        data = layout.write_data(
            self.variant.placed, f"{repository.MODELS}/{self.variant.name}", folder, self._options.jobs, progress
        )
        (folder / self._path).write_bytes(self._bytes)
        progress(len(self._bytes), "graph")
        return [WrittenFile(self._path, len(self._bytes), hashlib.sha256(self._bytes).hexdigest()), *data]

    @property
    def _path(self) -> str:
        return f"{repository.MODELS}/{self.variant.name}"

    @cached_property
    def _bytes(self) -> bytes:
        return self.variant.serialized()


def repository_files(
    subject: Subject, artifacts: Mapping[str, Sequence[PlannedFile]], default: OnnxQuant, wasm: OnnxQuant
) -> dict[str, str]:
    """Path -> text of the files around the models; ``subject`` holds the unquantized graph."""
    counts = data_file_counts(subject.model)
    # A variant whose matrices have types of their own may have more data files than its row alone.
    counts |= {Path(files[0].path).name: len(files) - 1 for files in artifacts.values()}
    return repository.render(config_of(subject.model), subject.tokenizer, counts, default, wasm)
