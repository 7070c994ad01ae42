"""One program for a backend whose compiler takes a captured graph, decided but not lowered.

Its numbers cannot be compared here. What can be: the captured graph in torch with the reference, before it is lowered;
and of the file its delegates, operators and constant methods, and that it holds every weight bit for bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import onnx_ir as ir

from exporter import parity
from exporter.divergence import compare
from exporter.errors import TargetError
from exporter.ir.build import config_of, set_config
from exporter.ir.weights import float_rows, is_quantized, quantized_parts
from exporter.parity import Check
from exporter.quant.apply import apply_recipe
from exporter.resources import anonymous_bytes, available_bytes
from exporter.targets.base import Options, PlannedFile, Progress, StoredTensor, Subject, WrittenFile
from exporter.targets.executorch import backends, files, preflight, wheel
from exporter.targets.executorch.capabilities import ExecuTorchQuant
from exporter.targets.executorch.plan import constant_values
from exporter.targets.executorch.program import Constants
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.releases import RELEASES
from exporter.targets.half import MAX_HALF
from exporter.targets.hf_files import model_config
from exporter.targets.stored import stored_tensors
from exporter.tensors import RowTensor
from exporter.tokenizer import Tokenizer, load_tokenizer_folder

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from exporter.targets.executorch.captured.decoder import Decoder

OPS = frozenset({"Embedding", "RMSNorm", "Linear", "Rope", "Attention", "SwiGLU", "Residual", "DequantizeLinear"})
"""What the module computes: not the transforms and adaptors of Meta's pre-quantized checkpoints, nor a narrow head."""

N_TOKENS, N_DECODED = 24, 8
"""Positions compared before lowering; of these, as many at the end enter one by one."""

_IMPORTS = 700 << 20
"""Anonymous bytes of torch's exporter, executorch's and coremltools (measured: 0.6 GiB)."""


class Compiler(Protocol):
    """A module of this package that captures and lowers for one backend."""

    def decoder(self, model: ir.Model, *, half: bool, headroom: float) -> Decoder:
        """The graph as a module, its weights in memory."""

    def capture(self, module: Decoder) -> ExportedProgram:
        """The module as a graph of torch's."""

    def run(self, captured: ExportedProgram, module: Decoder, ids: Sequence[int], prefill: int) -> torch.Tensor:
        """Logits of the last positions, from ``prefill - 1`` on at least."""

    def write(
        self, captured: ExportedProgram, module: Decoder, methods: Constants, path: Path, name: str, progress: Progress
    ) -> WrittenFile:
        """Lower and write the program.

        Raises:
            TargetError: If the backend's compiler does not take the graph.
        """

    def missing(self, module: Decoder, file: PteFile) -> list[str]:
        """Names of weights that the file does not hold bit for bit."""

    @property
    def DYNAMIC(self) -> bool:
        """Whether a program takes prompts of any length."""

    @property
    def HALF_BYTES(self) -> int:
        """Of a number of the module in rows of float16."""

    @property
    def COPIES(self) -> float:
        """Peak of anonymous memory over what the weights take in the module."""


class CapturedPlan:
    """See :class:`exporter.targets.base.Plan`; sizes are estimates until the program is lowered.

    Args:
        subject: Unquantized graph, tokenizer, facts.
        quant: The capability row.
        options: What is asked for besides.

    Raises:
        GraphError, TargetError: If the row cannot hold this model.
        RuntimeUnavailableError: See :func:`exporter.targets.executorch.wheel.require`.
    """

    def __init__(self, subject: Subject, quant: ExecuTorchQuant, options: Options) -> None:
        wheel.require()
        self._quant = quant
        self._backend = backends.get(quant.backend)
        if options.split_weights:
            raise TargetError(
                f"the backend {quant.backend} keeps weights where it wants them",
                expected="--backend xnnpack or portable",
                found="--split-weights",
            )
        config = config_of(subject.model)
        model_config(config, subject.tokenizer)
        self._known_context = config.max_seq_len
        self._model = apply_recipe(subject.model.clone(), quant.recipe, calibrated=subject.calibrated)
        set_config(self._model, config.replace(max_seq_len=files.context_length(subject)))
        for node in self._model.graph:
            if node.op_type not in OPS:
                raise TargetError(
                    f"the backend {quant.backend} is not made for {node.op_type} ({node.name})",
                    expected=", ".join(sorted(OPS)),
                    found=node.op_type,
                    hint="take --backend xnnpack",
                )
        self._tokenizer = subject.tokenizer
        self._releases = [RELEASES[key] for key in self._backend.releases]
        self._path = f"{files.FOLDER}/{subject.info.name}-{quant.name.upper()}.pte"
        self._needs: preflight.Needs | None = None

    @property
    def model(self) -> ir.Model:
        return self._model

    @cached_property
    def expected(self) -> Mapping[str, RowTensor]:
        return {str(value.name): float_rows(value) for value in self._weights}

    @property
    def _weights(self) -> list[ir.Value]:
        operands = (n.inputs[1] for n in self._model.graph if n.op_type in ("Embedding", "Linear", "RMSNorm"))
        return list(dict.fromkeys(value for value in operands if value is not None))

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def tensors(self) -> Sequence[StoredTensor]:
        item, found = 2 if self._quant.half else 4, {}
        for value in self._weights:
            if is_quantized(value):
                ints, scales, _ = quantized_parts(value)
                found[str(value.name)] = int(ints.dtype.itemsize * ints.size + item * scales.size)
            else:
                found[str(value.name)] = item * int(float_rows(value).size)
        return [*stored_tensors(self._model, self.expected, found, ir.DataType.FLOAT16)]

    @property
    def files(self) -> Sequence[PlannedFile]:
        return [PlannedFile(self._path, self.weight_bytes + (32 << 10) * (config_of(self._model).n_layers + 2), False)]

    @property
    def peak_bytes(self) -> int:
        return anonymous_bytes() + _IMPORTS + int(self._compiler.COPIES * self._module_bytes)

    @property
    def _module_bytes(self) -> int:
        """Of the weights as the module holds them: integers of 4 bits have a byte each."""
        return sum((1 if is_quantized(v) else self._itemsize) * int(float_rows(v).size) for v in self._weights)

    @property
    def _itemsize(self) -> int:
        """Of a number of the module."""
        return self._compiler.HALF_BYTES if self._quant.half else 4

    @property
    def requires(self) -> Mapping[str, Any]:
        """Known once the program is written."""
        return {} if self._needs is None else preflight.described(self._needs, self._releases)

    @property
    def notes(self) -> Sequence[str]:
        config = config_of(self._model)
        n_numbers = 2 * config.n_layers * config.n_kv_heads * config.head_dim * config.max_seq_len
        takes = f" and takes {self._itemsize * n_numbers / 1e6:.1f} MB"
        return [files.context_note(config.max_seq_len, self._known_context, takes)]

    @property
    def _compiler(self) -> Compiler:
        found: Any = importlib.import_module(f"exporter.targets.executorch.captured.{self._quant.backend}")
        return found  # type: ignore[no-any-return]

    @property
    def _methods(self) -> Constants:
        return constant_values(
            self._model, self._tokenizer, config_of(self._model).max_seq_len, dynamic=self._compiler.DYNAMIC
        )

    def _captured(self) -> tuple[Decoder, ExportedProgram]:
        quant = self._quant
        module = self._compiler.decoder(self._model, half=quant.half, headroom=quant.residual_headroom)
        return module, self._compiler.capture(module)

    def write(self, folder: Path, progress: Progress) -> list[WrittenFile]:
        """See :class:`exporter.targets.base.Plan`.

        Raises:
            TargetError: If memory will not do, the backend's compiler refuses the graph, or a phone's runtime lacks
                what the program calls.
        """
        self._require_memory()
        (folder / files.FOLDER).mkdir(parents=True, exist_ok=True)
        progress(0, "capturing")
        module, captured = self._captured()
        progress(0, "lowering")
        path = folder / self._path
        written = self._compiler.write(captured, module, self._methods, path, self._path, progress)
        self._needs = preflight.needs(PteFile(path).plans.values())
        self._require_delegates()
        preflight.require(self._needs, self._releases)
        return [written]

    def _require_memory(self) -> None:
        needed, free = self.peak_bytes - anonymous_bytes(), available_bytes()
        if free is not None and needed > free:
            raise TargetError(
                f"lowering for {self._quant.backend} needs more memory than is free: torch.export takes all weights",
                expected=f"about {needed / 2**30:.1f} GiB",
                found=f"{free / 2**30:.1f} GiB",
                hint="take --backend xnnpack, which streams them, or a machine with more memory",
            )

    def _require_delegates(self) -> None:
        assert self._needs is not None
        if list(self._needs.delegates) != [self._backend.delegate]:
            raise TargetError(
                f"the program does not run on {self._quant.backend}: its compiler has taken nothing of the graph",
                expected=self._backend.delegate,
                found=", ".join(self._needs.delegates) or "no delegate",
            )

    def inspect(self, paths: Sequence[Path]) -> list[Check]:
        """What can be found out about the artifact without its runtime."""
        file = PteFile(paths[0])
        module, captured = self._captured()
        return [
            *self._check_capture(module, captured),
            self._check_delegates(file),
            self._check_methods(file),
            self._check_weights(module, file),
            parity.check_vocabulary(self._tokenizer, self._read_tokenizer(paths[0].parent)),
        ]

    def _check_capture(self, module: Decoder, captured: ExportedProgram) -> list[Check]:
        """The graph that was lowered computes what the reference computes on the same weights, in torch."""
        from exporter.ir import interpreter

        ids = parity.probe_tokens(self._tokenizer, config_of(self._model))[:N_TOKENS]
        peaks: dict[str, float] = {}

        def observe(node: ir.Node, output: torch.Tensor) -> None:
            in_stream = any(n.op_type == "Residual" for n in (node, *(user for user, _ in node.outputs[0].uses())))
            peaks[str(node.name)] = float(output.abs().max()) / (self._quant.residual_headroom if in_stream else 1)

        expected = interpreter.logits(self._model, ids, observe)
        found = self._compiler.run(captured, module, ids, max(1, len(ids) - N_DECODED)).float().numpy()
        last = len(found)
        divergence = compare(expected[-last:], found, ids[-last:])
        logits = parity.check_logits(divergence, self._quant)
        detail = (
            f"{last} positions in torch before lowering: {logits.detail}, max {divergence.relative_max_abs:.1e} std"
        )
        checks = [Check("capture", logits.passed, detail)]
        if self._quant.half:
            worst = max(peaks, key=lambda name: peaks[name])
            checks.append(
                Check("range", peaks[worst] <= MAX_HALF, f"{worst} reaches {peaks[worst]:.4g} of {MAX_HALF:g}")
            )
        return checks

    def _check_delegates(self, file: PteFile) -> Check:
        """The backend has its part, and runtimes have the rest."""
        wanted = preflight.needs(file.plans.values())
        lacking = sorted({name for release in self._releases for name in preflight.missing(wanted, release)})
        ids = [delegate["id"] for delegate in file.forward["delegates"]]
        outside = file.kernel_calls
        detail = f"{len(ids)} x {self._backend.delegate}, {len(outside)} kernel calls outside"
        detail += f" ({', '.join(sorted(set(outside)))})" if outside else ""
        passed = bool(ids) and set(ids) == {self._backend.delegate} and not lacking
        return Check("delegates", passed, detail + (f"; missing: {', '.join(lacking)}" if lacking else ""))

    def _check_methods(self, file: PteFile) -> Check:
        """The constant methods say what the runner must know."""
        found = {name: file.constants(name) for name in file.plans if name != "forward"}
        expected = {n: list(v) if isinstance(v, Sequence) else [v] for n, v in self._methods.items()}
        wrong = [n for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n)]
        shown = [f"{n}: expected {expected.get(n)}, found {found.get(n)}" for n in wrong]
        return Check("methods", not wrong, "; ".join(shown) or f"{len(expected)} constant methods equal")

    def _check_weights(self, module: Decoder, file: PteFile) -> Check:
        """The file holds every weight; which matrix multiplies what is the compiler's business."""
        lost = self._compiler.missing(module, file)
        detail = (
            f"not in the file: {', '.join(lost[:6])}" if lost else f"{len(module.encoded)} tensors, all in the file"
        )
        return Check("weights", not lost, detail)

    def _read_tokenizer(self, folder: Path) -> Tokenizer:
        return load_tokenizer_folder(folder).padded(config_of(self._model).vocab_size)
