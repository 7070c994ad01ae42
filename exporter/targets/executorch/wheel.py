"""The installed executorch wheel: its version, and the flatbuffer compiler and schemas that it carries.

Nothing here imports executorch: its ``exir`` package takes ten seconds to import, and what it would be needed for is
one compiler and two schemas (``exir/_serialize/program.fbs``, ``backends/xnnpack/serialization/schema.fbs``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from exporter.errors import RuntimeUnavailableError, TargetError

PACKAGE = "executorch"
CHECKED = {"1.4.0": "2.13.0"}
"""executorch release -> the torch release whose C++ interface its libraries were built against."""

RELEASE = next(iter(CHECKED))
"""What apps should link."""

PROGRAM = Path("exir/_serialize/program.fbs")
"""Schema of a ``.pte`` file."""
FLAT_TENSOR = Path("extension/flat_tensor/serialize/flat_tensor.fbs")
"""Schema of a ``.ptd`` file."""
XNNPACK = Path("backends/xnnpack/serialization/schema.fbs")
"""Schema of what the XNNPACK backend is given."""


def version() -> str | None:
    """The installed release, or ``None``."""
    return _version(PACKAGE)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require() -> None:
    """Make sure that executorch is there, and beside the torch that it belongs to.

    Raises:
        RuntimeUnavailableError: It is not installed, in an unchecked release, or beside another torch.
    """
    found, torch = version(), str(_version("torch")).split("+")[0]
    if found is None or CHECKED.get(found) != torch:
        pairs = " or ".join(f"{PACKAGE} {ours} with torch {theirs}" for ours, theirs in CHECKED.items())
        raise RuntimeUnavailableError(
            "the ExecuTorch target needs executorch and the torch that belongs to it",
            expected=pairs,
            found=f"{PACKAGE} {found or 'not installed'} with torch {torch}",
            hint="pip install -c constraints.txt 'llama-exporter[executorch]'",
        )


def encode(schema: Path, document: dict[str, Any]) -> bytes:
    """A flatbuffer from plain JSON types.

    Raises:
        RuntimeUnavailableError: See :func:`require`.
    """
    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        source = Path(folder, "table.json")
        source.write_text(json.dumps(document), encoding="utf-8")
        # --force-defaults would grow the file; without it a field at its default is left out, as executorch does.
        _flatc("--binary", "-o", folder, str(path(schema)), str(source))
        return next(path for path in Path(folder).iterdir() if path != source).read_bytes()


def decode(schema: Path, data: bytes) -> dict[str, Any]:
    """Plain JSON types from a flatbuffer, fields at their default included.

    Raises:
        RuntimeUnavailableError: See :func:`require`.
        TargetError: The data is no flatbuffer of that schema.
    """
    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        source = Path(folder, "table.bin")
        source.write_bytes(data)
        # Neither file identifiers nor strict JSON are flatc's defaults.
        _flatc(
            "--json", "--strict-json", "--defaults-json", "--raw-binary", "-o", folder,
            str(path(schema)), "--", str(source),
        )  # fmt: skip
        document: dict[str, Any] = json.loads(Path(folder, "table.json").read_text(encoding="utf-8"))
        return document


def path(inside: Path) -> Path:
    """A file or folder of the wheel."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        require()
        raise RuntimeUnavailableError("executorch has no files", hint="reinstall it")
    return next(Path(p, inside) for p in spec.submodule_search_locations if Path(p, inside).exists())


def _flatc(*arguments: str) -> None:
    require()
    flatc = path(Path("data/bin/flatc"))
    done = subprocess.run([str(flatc), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError("flatc refuses a flatbuffer", found=(done.stderr or done.stdout).strip()[-400:])
