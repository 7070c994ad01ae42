"""How these tests drive the command line and look at what it left on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from exporter.cli import main
from tests.fixtures.models import (
    META_SPEC,
    TinySpec,
    huggingface_name,
    huggingface_weights,
    write_huggingface,
    write_safetensors,
)

ROOT = Path(__file__).resolve().parents[2]
STAGING = ".staging"
"""Ends the name of every staging folder: the only thing a killed run may leave."""


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout; anything else there is an error."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, str]:
        """``error``, ``expected``, ``found`` and ``hint`` of a refusal, from the last lines of stderr."""
        labels = ("error", "expected", "found", "hint")
        lines = (line.partition(": ") for line in self.stderr.splitlines())
        return {label: text for label, _, text in lines if label in labels}


def run(*arguments: object) -> Outcome:
    """A command in this process."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback: what no user may ever see
    return Outcome(result.exit_code, result.stdout, result.stderr)


def export(model: Path, out: Path, *quants: str, check: bool = False, options: tuple[object, ...] = ()) -> Outcome:
    """``exporter export MODEL --target gguf``, by default without the check."""
    chosen = [part for quant in quants for part in ("--quant", quant)]
    verify = "--verify" if check else "--no-verify"
    return run("export", model, "--target", "gguf", *chosen, "--out", out, verify, "--jobs", 2, *options)


def command(*arguments: object) -> list[str]:
    """``python cli.py …``, as people type it."""
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


def process(*arguments: object, **changes: str) -> Outcome:
    """A command in a process of its own, with changed environment variables."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(**changes), check=False, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def manifest(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return document


def shared_files(out: Path, target: str) -> dict[str, dict[str, Any]]:
    """Path -> entry of the manifest, of the files that a target's artifacts share."""
    return {file["path"]: file for file in manifest(out)["shared_files"] if file["target"] == target}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def snapshot(folder: Path) -> dict[str, str]:
    """Relative path -> hash of every file below ``folder``, staging folders aside; empty folders count as well."""
    found = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if not any(part.endswith(STAGING) for part in relative.parts):
            found[str(relative)] = sha256(path) if path.is_file() else "folder"
    return found


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """GGUF name -> type, shape as stored and bytes, read by gguf-py."""
    from gguf import GGUFReader

    return {
        t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape), t.data.tobytes()) for t in GGUFReader(path).tensors
    }


def metadata(path: Path) -> dict[str, Any]:
    """Key -> value, read by gguf-py."""
    from gguf import GGUFReader

    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


def write_poked(path: Path, name: str, at: tuple[int, ...], value: float, spec: TinySpec = META_SPEC) -> Path:
    """A Hugging Face folder in which one weight, by its canonical name, has another value."""
    write_huggingface(path, spec)
    found = huggingface_weights(spec)
    found[huggingface_name(name)][at] = value
    write_safetensors(path / "model.safetensors", found)
    return path
