"""One program, decided: its graph, where its weights lie, and the exact size of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporter.ir.build import config_of, set_config
from exporter.ir.weights import quantized_weights
from exporter.quant.allocation.types import resolve
from exporter.quant.apply import apply_recipe
from exporter.resources import anonymous_bytes
from exporter.targets.base import Options, PlannedFile, Progress, StoredTensor, Subject, WrittenFile
from exporter.targets.executorch import backends, files, preflight, wheel
from exporter.targets.executorch.capabilities import ExecuTorchQuant
from exporter.targets.executorch.data_file import DataFile
from exporter.targets.executorch.engine import Engine
from exporter.targets.executorch.kernels import Portable
from exporter.targets.executorch.layout import Layout
from exporter.targets.executorch.lower import lower
from exporter.targets.executorch.program import Constants
from exporter.targets.executorch.releases import RELEASES
from exporter.targets.executorch.rotary import COS, SIN
from exporter.targets.executorch.scales import fit_scales
from exporter.targets.executorch.weights import INTS
from exporter.targets.executorch.xnnpack import Xnnpack
from exporter.targets.hf_files import model_config
from exporter.targets.stored import stored_tensors
from exporter.tensors import CHUNK_WEIGHTS, RowTensor
from exporter.tokenizer import Tokenizer

_KERNEL_BYTES = 40 << 20
"""Anonymous memory of numba and the compiled kernels (measured for the GGUF target: 36 MiB)."""
_BYTES_PER_WEIGHT = 12
"""Anonymous bytes per weight of a chunk in flight (measured for the ONNX target)."""

ENGINES: Mapping[str, Callable[[ExecuTorchQuant], Engine]] = {
    "xnnpack": lambda quant: Xnnpack(quant.rounds),
    "portable": lambda quant: Portable(),
}
"""Backends whose programs are written here -> what computes."""


class ExecuTorchPlan:
    """See :class:`exporter.targets.base.Plan`.

    Args:
        subject: Unquantized graph, tokenizer, facts.
        quant: The capability row.
        options: Worker threads.

    Raises:
        GraphError, TargetError: If the row cannot hold this model, or a phone's runtime cannot run its program.
        RuntimeUnavailableError: See :func:`exporter.targets.executorch.wheel.require`.
    """

    def __init__(self, subject: Subject, quant: ExecuTorchQuant, options: Options) -> None:
        wheel.require()
        self._options = options
        config = config_of(subject.model)
        # Refused now rather than after the work.
        model_config(config, subject.tokenizer)
        chosen = {str(weight.name) for weight in quantized_weights(subject.model)}
        recipe = quant.recipe.with_types(resolve(subject.model, quant.name, quant.types, options.types))
        self._model = apply_recipe(subject.model.clone(), recipe, calibrated=subject.calibrated)
        self._scales = fit_scales(self._model, chosen)
        self._config = config.replace(max_seq_len=files.context_length(subject))
        set_config(self._model, self._config)
        self._known_context = config.max_seq_len
        self._lowered = lower(self._model, ENGINES[quant.backend](quant))
        values = constant_values(self._model, subject.tokenizer, self._lowered.program.max_tokens)
        self._layout = Layout(self._lowered, values, split=options.split_weights)
        self._data = DataFile(self._lowered) if options.split_weights else None
        self._releases = [RELEASES[key] for key in backends.get(quant.backend).releases]
        self._needs = preflight.needs(self._layout.document["execution_plan"])
        preflight.require(self._needs, self._releases)
        self._stem = f"{files.FOLDER}/{subject.info.name}-{quant.name.upper()}"

    @property
    def model(self) -> ir.Model:
        return self._model

    @cached_property
    def files(self) -> Sequence[PlannedFile]:
        program = PlannedFile(f"{self._stem}.pte", self._layout.nbytes)
        return [program] if self._data is None else [program, PlannedFile(f"{self._stem}.ptd", self._data.nbytes)]

    @property
    def weight_bytes(self) -> int:
        return sum(w.nbytes for w in self._lowered.weights if w.blobs[0].key not in (COS, SIN))

    @property
    def tensors(self) -> Sequence[StoredTensor]:
        found = {w.blobs[0].key.removesuffix(INTS): w.nbytes for w in self._lowered.weights}
        return [*stored_tensors(self._model, self.expected, found, ir.DataType.BFLOAT16)]

    @property
    def expected(self) -> Mapping[str, RowTensor]:
        return self._lowered.parameters

    @property
    def peak_bytes(self) -> int:
        waiting = max(sum(blob.nbytes for blob in w.blobs[1:]) for w in self._lowered.weights)
        in_flight = (self._options.jobs + 2) * CHUNK_WEIGHTS * _BYTES_PER_WEIGHT
        return anonymous_bytes() + _KERNEL_BYTES + in_flight + waiting + len(self._layout.head)

    @property
    def requires(self) -> Mapping[str, Any]:
        return preflight.described(self._needs, self._releases)

    @property
    def notes(self) -> Sequence[str]:
        taken = self._layout.planned_bytes / 1e6
        takes = f"; with it, a loaded program takes {taken:.1f} MB beside its weights"
        return [*self._scales.notes, files.context_note(self._config.max_seq_len, self._known_context, takes)]

    def write(self, folder: Path, progress: Progress) -> list[WrittenFile]:
        (folder / files.FOLDER).mkdir(parents=True, exist_ok=True)
        parts: list[Layout | DataFile] = [self._layout] if self._data is None else [self._layout, self._data]
        return [
            part.write(folder / file.path, file.path, self._options.jobs, progress)
            for part, file in zip(parts, self.files, strict=True)
        ]


def constant_values(model: ir.Model, tokenizer: Tokenizer, max_tokens: int, *, dynamic: bool = True) -> Constants:
    """What the LLM runner asks a program for (executorch ``extension/llm/runner/constants.h``).

    Its ``max_seq_len`` is the length of one call, ``max_tokens``; what others mean by the name is ``max_context_len``.
    Without ``dynamic`` it feeds a prompt token by token.
    """
    config = config_of(model)
    known = {} if tokenizer.bos_id is None else {"get_bos_id": tokenizer.bos_id}
    return {
        **known,
        "get_eos_ids": tokenizer.stop_ids,
        "get_max_seq_len": max_tokens,
        "get_max_context_len": config.max_seq_len,
        "get_vocab_size": config.vocab_size,
        "get_n_layers": config.n_layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": dynamic,
    }
