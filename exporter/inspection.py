"""``exporter inspect``: what is in a model or in an artifact folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import manifest
from exporter.artifact import MANIFEST
from exporter.console import size_text
from exporter.ir.printer import dtype_text, lines
from exporter.source import SourceOptions, open_source
from exporter.targets.base import StoredTensor
from exporter.tensors import RowTensor

# Canonical name -> component; the first that matches.
_COMPONENTS = (
    ("embedding", r"tok_embeddings\."),
    ("head", r"output\."),
    ("attention", r"layers\.\d+\.attention\."),
    ("feed_forward", r"layers\.\d+\.feed_forward\."),
    ("norms", r".*norm\.weight$"),
)


def component(tensor: str) -> str:
    """The part of a model that a tensor belongs to."""
    return next(name for name, pattern in _COMPONENTS if re.match(pattern, tensor))


@dataclass(frozen=True)
class ModelReport:
    """A model, without reading its weights."""

    name: str
    format: str
    config: dict[str, Any]
    notes: Sequence[str]
    stop_tokens: Sequence[str]
    graph: Sequence[str]
    tensors: Sequence[StoredTensor]

    @property
    def components(self) -> dict[str, int]:
        """Component -> bytes in the file."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            name = component(tensor.name)
            sizes[name] = sizes.get(name, 0) + tensor.nbytes
        return sizes

    @property
    def n_params(self) -> int:
        total = 0
        for tensor in self.tensors:
            size = 1
            for dim in tensor.shape:
                size *= dim
            total += size
        return total

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(t.nbytes for t in self.tensors) / self.n_params

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "format": self.format,
            "config": self.config,
            "notes": list(self.notes),
            "stop_tokens": list(self.stop_tokens),
            "n_params": self.n_params,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "components": self.components,
            "graph": list(self.graph),
            "tensors": [vars(t) | {"shape": list(t.shape)} for t in self.tensors],
        }

    def to_text(self) -> str:
        total = sum(t.nbytes for t in self.tensors)
        blocks = [
            [f"{self.name} ({self.format}): {self.n_params:,} weights, {self.bits_per_weight:.2f} bits per weight"],
            ["config", *(f"  {k} = {v}" for k, v in self.config.items())],
            ["stop tokens", *(f"  {token}" for token in self.stop_tokens)],
            [f"note: {note}" for note in self.notes],
            ["graph", *(f"  {line}" for line in self.graph)],
            [
                "tensors",
                *(f"  {t.name:44} {t.type:5} {list(t.shape)!s:18} {size_text(t.nbytes)}" for t in self.tensors),
            ],
            [
                "sizes",
                *(f"  {name:14} {size_text(n):>10} {n / total:6.1%}" for name, n in self.components.items()),
            ],
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)


@dataclass(frozen=True)
class ArtifactReport:
    """An artifact folder: its manifest."""

    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.manifest

    def to_text(self) -> str:
        model, source = self.manifest["model"], self.manifest["source"]
        out = [f"{model['name']}, from {source['model']} ({source['format']})", "", "config"]
        out += [f"  {k} = {v}" for k, v in model["config"].items()]
        for artifact in self.manifest["artifacts"]:
            out += ["", f"{artifact['target']} {artifact['quant']}: {artifact['bits_per_weight']:.2f} bits per weight"]
            out += [f"  {f['path']}  {size_text(f['bytes'])}  sha256 {f['sha256']}" for f in artifact["files"]]
            out += [f"  verdict: {artifact['parity']['verdict']}"]
            for kind in ("faithfulness", "quality"):
                numbers = artifact["parity"].get(kind, {})
                if numbers:
                    out.append(f"  {kind}: " + ", ".join(f"{k} {v:.3g}" for k, v in numbers.items() if v is not None))
        return "\n".join(out)


def _row(tensor: RowTensor) -> StoredTensor:
    encoded, parts = tensor.encoded, tensor.quantized
    if parts is not None:
        # Meta's files hold an integer of 4 bits in a byte of its own.
        return StoredTensor(
            str(tensor.name), dtype_text(parts.ints.dtype), tensor.dims, parts.ints.size + parts.scales.nbytes
        )
    kind = encoded.type_name if encoded else dtype_text(tensor.dtype)
    nbytes = encoded.row_nbytes * tensor.n_rows if encoded else tensor.nbytes
    return StoredTensor(str(tensor.name), kind, tensor.dims, nbytes)


def inspect(path: str, options: SourceOptions) -> ModelReport | ArtifactReport:
    """Look at a model or at an artifact folder; which of them it is, is recognised.

    Raises:
        ExporterError: As the readers raise it.
    """
    if (Path(path) / MANIFEST).is_file():
        return ArtifactReport(manifest.load(Path(path)))
    source = open_source(path, options)
    tokenizer = source.tokenizer
    return ModelReport(
        name=source.checkpoint.info.name,
        format=source.checkpoint.format,
        config=source.config.to_dict(),
        notes=source.checkpoint.notes,
        stop_tokens=[f"{token_id} {tokenizer.piece(token_id)}" for token_id in tokenizer.stop_ids],
        graph=list(lines(source.graph())),
        tensors=[_row(tensor) for tensor in source.checkpoint.tensors.values()],
    )
