"""The ONNX target: browsers and Node.js, through Transformers.js, and everything else that loads ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from exporter.targets.base import Options, PlannedFile, Quant, ReadBack, Runtime, Subject, Target
from exporter.targets.onnx import reading, repository, runtime
from exporter.targets.onnx.capabilities import ALIASES, PREFERENCE, QUANTS, WASM_PREFERENCE
from exporter.targets.onnx.plan import OnnxPlan, repository_files

REMARKS = (
    "ONNX: 8-bit variants round the weights only. The customary `q8` of Transformers.js rounds the activations too, "
    "with one scale for all of them, which costs far more; the exporter's `docs/onnx.md` has the numbers.",
    "ONNX: the float16 variants keep norms and the residual stream in float32; their other activations were checked to "
    "stay far from float16's limit.",
    "ONNX: checked in ONNX Runtime on the CPU. Nothing was run on WebGPU hardware.",
)
"""What the numbers in a model card do not say."""


class _Onnx(Target):
    """See :class:`exporter.targets.base.Target`."""

    name = "onnx"
    summary = "browsers and Node.js: Transformers.js, ONNX Runtime"
    quants: Mapping[str, Quant] = QUANTS
    aliases: Mapping[str, str] = ALIASES
    suffix = ".onnx"
    default_quant = "int4"
    language = "js"
    remarks = REMARKS
    packages: Mapping[str, str] = {"npm": "@huggingface/transformers@4.3.1"}

    def plan(self, subject: Subject, quant: str, options: Options) -> OnnxPlan:
        return OnnxPlan(subject, QUANTS[self.quant(quant).name], options)

    def shared_files(self, subject: Subject, artifacts: Mapping[str, Sequence[PlannedFile]]) -> Mapping[str, str]:
        default, wasm = (
            next(QUANTS[name] for name in order if name in artifacts) for order in (PREFERENCE, WASM_PREFERENCE)
        )
        return repository_files(subject, artifacts, default, wasm)

    def commands(self, files: Sequence[PlannedFile]) -> Sequence[str]:
        dtype = next(q.dtype for q in QUANTS.values() if Path(files[0].path).name == q.file_name)
        return [
            'import { env, pipeline } from "@huggingface/transformers";',
            'env.localModelPath = "./";  // this folder',
            f'const {dtype} = await pipeline("text-generation", "{repository.FOLDER}", {{ dtype: "{dtype}" }});',
        ]

    def runtime_versions(self) -> Mapping[str, str | None]:
        return {runtime.PACKAGE: runtime.version()}

    def require_runtime(self) -> None:
        runtime.require()

    def load(self, files: Sequence[Path]) -> Runtime:
        return runtime.OnnxRuntime(files[0])

    def read_back(self, files: Sequence[Path]) -> ReadBack:
        from exporter.tokenizer import load_tokenizer_folder

        folder = files[0].parent.parent
        config = reading.read_config(folder)
        weights = reading.read_weights(files[0], config)
        return ReadBack(config, weights, load_tokenizer_folder(folder).padded(config.vocab_size))


ONNX = _Onnx()
