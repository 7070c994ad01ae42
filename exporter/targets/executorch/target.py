"""The ExecuTorch target: phones, through the C++ LLM runner that iOS and Android apps link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from exporter.parity import Check
from exporter.targets.base import Backend, Options, Plan, PlannedFile, Quant, ReadBack, Runtime, Subject, Target
from exporter.targets.executorch import files as shared
from exporter.targets.executorch import reading, runtime, variants, wheel
from exporter.targets.executorch.backends import BACKENDS
from exporter.targets.executorch.capabilities import ALIASES, QUANTS, ExecuTorchQuant
from exporter.targets.executorch.captured.plan import CapturedPlan
from exporter.targets.executorch.plan import ENGINES, ExecuTorchPlan

REMARKS = (
    f"ExecuTorch: the cache holds {shared.CONTEXT} positions unless more were asked for with `--max-seq-len`.",
    "ExecuTorch: checked on this machine's CPU; the Arm kernels of a phone were not run.",
    "ExecuTorch: the runner's tokenizer always recognises special tokens by their names, in a user's text as well.",
)
"""What the numbers in a model card do not say."""


class _ExecuTorch(Target):
    """See :class:`exporter.targets.base.Target`."""

    name = "executorch"
    summary = "phones: ExecuTorch with XNNPACK on iOS and Android"
    quants: Mapping[str, Quant] = QUANTS
    aliases: Mapping[str, str] = ALIASES
    choices = frozenset({"group_size", "embedding", "backend"})
    suffix = ".pte"
    default_quant = "int4"
    backends: Mapping[str, Backend] = BACKENDS
    language = "python"
    remarks = REMARKS
    packages: Mapping[str, str] = shared.PACKAGES

    def resolve(self, name: str, options: Options) -> str | None:
        variant = variants.parse(self.aliases.get(name, name))
        if variant is None or not (variant := variants.chosen(variant, options)).exists:
            return None
        return variant.name

    def quant(self, row: str) -> ExecuTorchQuant:
        if (variant := variants.parse(row)) is None:
            raise self.unknown(row)
        return variant.row()

    def plan(self, subject: Subject, quant: str, options: Options) -> Plan:
        row = self.quant(quant)
        return (ExecuTorchPlan if row.backend in ENGINES else CapturedPlan)(subject, row, options)

    def shared_files(
        self, subject: Subject, artifacts: Mapping[str, Sequence[PlannedFile]]
    ) -> Mapping[str, str | bytes]:
        return shared.render(subject, {self.quant(quant): files for quant, files in sorted(artifacts.items())})

    def commands(self, files: Sequence[PlannedFile]) -> Sequence[str]:
        program, *data = (file.path for file in files)
        arguments = ", ".join(f'"{path}"' for path in (program, f"{shared.FOLDER}/tokenizer.json", *data))
        return [
            "from executorch.extension.pybindings import _portable_lib  # registers what the others extend",
            "import executorch.kernels.quantized",
            "from executorch.extension.llm.custom_ops import custom_ops",
            "from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner",
            f"runner = TextLLMRunner({arguments})",
            'runner.generate("Once upon a time", GenerationConfig(max_new_tokens=64))',
        ]

    def runtime_versions(self) -> Mapping[str, str | None]:
        return {wheel.PACKAGE: wheel.version()}

    def require_runtime(self) -> None:
        wheel.require()

    def not_run(self, quant: str) -> str:
        backend = BACKENDS[self.quant(quant).backend]
        return "" if backend.runs_here else f"{backend.delegate} does not run here, only on the {backend.devices}"

    def inspect(self, plan: Plan, files: Sequence[Path]) -> Sequence[Check]:
        assert isinstance(plan, CapturedPlan)
        return plan.inspect(files)

    def load(self, files: Sequence[Path]) -> Runtime:
        return runtime.ExecuTorch(*files)

    def read_back(self, files: Sequence[Path]) -> ReadBack:
        from exporter.tokenizer import load_tokenizer_folder

        folder = files[0].parent
        file = reading.PteFile(*files)
        config = reading.read_config(file, folder)
        tokenizer = load_tokenizer_folder(folder).padded(config.vocab_size)
        return ReadBack(config, reading.read_weights(file, config), tokenizer)


EXECUTORCH = _ExecuTorch()
