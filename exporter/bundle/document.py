"""``bundle.json``: everything an app must know of an artifact. Documented in ``docs/bundle.md``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter import targets
from exporter.bundle.golden import golden_answers
from exporter.bundle.prompt_format import prompt_format, to_json

SCHEMA = 1
NAME = "bundle.json"
NOTICE = "Built with Llama"
"""What Meta's Llama licences (3.1 and later, section 1.b.i) ask every product to show."""


def document(manifest: dict[str, Any], artifact: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What ``bundle.json`` says; nothing in it that depends on when or where it is made.

    Args:
        manifest: Of the export folder.
        artifact: Its entry to bundle.
        folder: The export folder.

    Raises:
        ExporterError: If the artifact cannot be read back, or its runtime is absent or refuses it.
    """
    target = targets.get(artifact["target"])
    files = [*artifact["files"], *(f for f in manifest["shared_files"] if f["target"] == target.name)]
    paths = [folder / file["path"] for file in artifact["files"]]
    known, runtime = target.read_back(paths), target.load(paths)
    config, tokenizer = known.config, known.tokenizer
    license_id = manifest["model"]["license"]
    return {
        "schema": SCHEMA,
        "name": manifest["model"]["name"],
        "target": target.name,
        "quant": artifact["quant"],
        "artifact": [file["path"] for file in artifact["files"]],
        "files": sorted(({k: file[k] for k in ("path", "bytes", "sha256")} for file in files), key=lambda f: f["path"]),
        "runtime": {"versions": dict(target.linked_versions()), "packages": dict(target.packages)},
        "requires": artifact.get("requires", {}),
        "context_length": config.max_seq_len,
        "vocab_size": config.vocab_size,
        "expected_ram_bytes": expected_ram(
            files, config.n_layers * config.n_kv_heads * config.head_dim, config.max_seq_len
        ),
        "bos_id": tokenizer.bos_id,
        "stop_ids": list(tokenizer.stop_ids),
        "stop_tokens": [tokenizer.piece(i) for i in tokenizer.stop_ids],
        "chat_template": tokenizer.chat_template,
        "prompt_format": to_json(prompt_format(tokenizer)),
        "license": license_id,
        "notice": NOTICE if license_id.startswith("llama") else "",
        "golden": [dataclasses.asdict(g) for g in golden_answers(tokenizer, runtime, config.max_seq_len)],
    }


def expected_ram(files: Sequence[dict[str, Any]], cached_floats: int, context_length: int) -> int:
    """Bytes that a loaded artifact needs: its files once, and a float32 cache of keys and values that is full."""
    stored: int = sum(file["bytes"] for file in files)
    return stored + 2 * 4 * cached_floats * context_length
