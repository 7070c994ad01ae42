"""The GGUF target: desktops, through llama.cpp and everything built on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporter.errors import TargetError
from exporter.ir.build import config_of
from exporter.ir.weights import quantized_weights
from exporter.quant.allocation.types import resolve
from exporter.quant.apply import apply_recipe
from exporter.targets.base import EXPORT_THE_ORIGINAL, Options, PlannedFile, Quant, ReadBack, Runtime, Subject, Target
from exporter.targets.gguf import llama_cpp, modelfile, runtime
from exporter.targets.gguf.capabilities import QUANTS
from exporter.targets.gguf.head import full_height
from exporter.targets.gguf.plan import FOLDER, GgufPlan


class _Gguf(Target):
    """See :class:`exporter.targets.base.Target`."""

    name = "gguf"
    summary = "desktops and servers: llama.cpp, Ollama, LM Studio"
    quants: Mapping[str, Quant] = QUANTS
    aliases: Mapping[str, str] = {}
    suffix = ".gguf"
    default_quant = "q4_k_m"
    language = "sh"
    remarks: Sequence[str] = ()
    packages: Mapping[str, str] = {"llama.cpp": next(iter(llama_cpp.RELEASES.values())).build}

    def plan(self, subject: Subject, quant: str, options: Options) -> GgufPlan:
        row = QUANTS[self.quant(quant).name]
        if not row.portable and (chosen := quantized_weights(subject.model)):
            raise TargetError(
                f"{row.name} chooses integers, and the checkpoint has chosen its own",
                expected="float weights",
                found=f"{chosen[0].name} and {len(chosen) - 1} more in integers",
                hint=EXPORT_THE_ORIGINAL,
            )
        model = full_height(subject.model)
        types = resolve(model, row.name, row.types, options.types)
        if row.recipe is not None:
            model = apply_recipe(model, row.recipe.with_types(types), calibrated=subject.calibrated)
        encoded = {name: kind.name.upper() for name, kind in types.items() if kind.scheme is None}
        return GgufPlan(dataclasses.replace(subject, model=model), row, options, encoded)

    def shared_files(self, subject: Subject, artifacts: Mapping[str, Sequence[PlannedFile]]) -> Mapping[str, str]:
        first = next(iter(artifacts.values()))[0]
        greedy = config_of(subject.model).kept_tokens is not None
        return {f"{FOLDER}/Modelfile": modelfile.render(Path(first.path).name, subject.tokenizer, greedy=greedy)}

    def commands(self, files: Sequence[PlannedFile]) -> Sequence[str]:
        return [f"llama-cli -m {files[0].path}", f"cd {FOLDER} && ollama create my-model -f Modelfile"]

    def runtime_versions(self) -> Mapping[str, str | None]:
        return {"llama.cpp": runtime.llama_cpp_version()}

    def linked_versions(self) -> Mapping[str, str | None]:
        return {"llama.cpp": runtime.llama_cpp_build()}

    def require_runtime(self) -> None:
        llama_cpp.checked()

    def load(self, files: Sequence[Path]) -> Runtime:
        return runtime.LlamaCpp(files[0])

    def read_back(self, files: Sequence[Path]) -> ReadBack:
        # The reader is the other implementation of the format: what it finds was not told it by this target.
        from exporter.checkpoint.gguf import open_gguf

        checkpoint = open_gguf(files[0])
        return ReadBack(checkpoint.config, checkpoint.tensors, checkpoint.load_tokenizer())


GGUF = _Gguf()
