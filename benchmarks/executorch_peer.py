"""ExecuTorch's own exporter, ``executorch.extension.llm.export.export_llm``, on a checkpoint in Meta's layout.

8-bit activations, 4-bit weights in groups of 32, an embedding of 4 bits in groups of 32, XNNPACK, a cache of 2048
positions: the mobile recipe of its README. It wants ``.pth`` and ``params.json``; both are written once and kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import CACHE
from benchmarks.measure import Usage, measure
from exporter.config import ModelConfig
from exporter.source import SourceOptions, open_source

NAME = "export_llm 8da4w"
CONTEXT = 2048
_PROGRAM = "model.pte"

_CONFIG = """
base:
  model_class: llama3_2
  checkpoint: {folder}/consolidated.00.pth
  params: {folder}/params.json
  metadata: '{{"get_bos_id": 1, "get_eos_ids": [2]}}'
model:
  dtype_override: fp32
  use_kv_cache: true
  use_sdpa_with_kv_cache: true
quantization:
  qmode: 8da4w
  group_size: 32
  embedding_quantize: 4,32
export:
  max_seq_length: {context}
  max_context_length: {context}
  output_name: {out}
backend:
  xnnpack:
    enabled: true
    extended_ops: true
"""


def build(model: Path) -> tuple[Usage, Path]:
    """Export a Hugging Face folder; only export_llm's own work is counted. The program takes the kept one's place."""
    folder = _meta_folder(model)
    config, unfinished = folder / "export_llm.yaml", folder / "unfinished.pte"
    config.write_text(_CONFIG.format(folder=folder, out=unfinished, context=CONTEXT))
    command = [sys.executable, "-m", "executorch.extension.llm.export.export_llm", "--config", str(config)]
    usage = measure(command, cwd=folder, quiet=True)  # it leaves a log where it runs
    return usage, unfinished.rename(folder / _PROGRAM)


def kept(model: Path) -> Path:
    """The program of a model, built once and kept."""
    path = _folder(model) / _PROGRAM
    return path if path.exists() else build(model)[1]


def _folder(model: Path) -> Path:
    return CACHE / "peers" / model.name / "export_llm"


def _meta_folder(model: Path) -> Path:
    folder = _folder(model)
    if (folder / "params.json").exists():
        return folder
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(str(model), SourceOptions())
    tensors = {
        name: torch.from_numpy(t.rows_f32(0, t.n_rows).copy()).to(torch.bfloat16)
        for name, t in source.checkpoint.tensors.items()
    }
    tensors.setdefault("output.weight", tensors["tok_embeddings.weight"])
    torch.save(tensors, folder / "consolidated.00.pth")
    (folder / "params.json").write_text(json.dumps(_params(source.config)))
    return folder


def _params(config: ModelConfig) -> dict[str, object]:
    scaling = config.rope_scaling
    return {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_dim": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": scaling is not None,
        **({} if scaling is None else {"rope_scale_factor": int(scaling.factor)}),
    }
