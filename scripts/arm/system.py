"""An aarch64 system in ``.cache/arm``: QEMU, Debian's Python, and the wheels that ExecuTorch's runtime needs there."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.targets.executorch import wheel
from scripts.arm.elf import without_functions
from scripts.fetching import CACHE, Missing, apt_options, once, require, run

HERE = CACHE / "arm"
CONSTRAINTS = CACHE.parent / "constraints.txt"

EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
"""Names under which distributions install QEMU's user emulation."""

DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""With all that they depend on, the C library included."""

PYTHON_PACKAGES = (
    "executorch", "torch", "numpy",
    "filelock", "fsspec", "jinja2", "MarkupSafe", "mpmath", "networkx", "sympy", "typing_extensions",
)  # fmt: skip
"""The runtime and torch with what it imports (its metadata), but for CUDA; versions as in ``constraints.txt``."""

CUDA_RUNTIME = "nvidia-cuda-runtime==13.0.96"
"""torch takes addresses of its functions, so that it must be there; the version is that of torch's metadata."""

CUDA = (
    "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libcufft.so.12", "libcufile.so.0", "libcupti.so.13",
    "libcurand.so.10", "libcusparse.so.12", "libcusparseLt.so.0", "libnccl.so.2", "libnvrtc.so.13",
    "libnvshmem_host.so.3",
)  # fmt: skip
"""What the libraries of torch 2.13.0 need beside (``DT_NEEDED``). The package index has no torch for aarch64 without
CUDA, and these libraries fill two gigabytes; a program on the CPU calls none of them."""

PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")

BIND_LATE = """\
# Functions are looked up when they are called: most of CUDA's are not here.
import os
import sys

sys.setdlopenflags(os.RTLD_LAZY)
"""


@dataclass(frozen=True)
class System:
    """Where everything is.

    Attributes:
        emulator: QEMU's user emulation of aarch64.
        root: Files of Debian packages, as below ``/``.
        packages: Python packages; one folder.
    """

    emulator: Path
    root: Path
    packages: Path

    @property
    def python(self) -> Path:
        return _python(self.root)


def prepare() -> System:
    """Fetch what is not here yet.

    Raises:
        Missing: This is no Linux on x86-64, or apt, pip, a network or a package is missing.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Missing(f"this is {platform.system()} on {platform.machine()}, not Linux on x86-64")
    emulator = _emulator()
    root = once(HERE / "root", _unpack_debian)
    python = _python(root).name
    release, torch = next(iter(wheel.CHECKED.items()))
    packages = once(
        HERE / f"{python}-executorch-{release}-torch-{torch}",
        lambda folder: _install(folder, python.removeprefix("python")),
    )
    return System(emulator, root, packages)


def _python(root: Path) -> Path:
    return next(root.glob("usr/bin/python3.*"))


def _emulator() -> Path:
    for name in EMULATORS:
        if found := shutil.which(name):
            return Path(found)
    (found,) = once(HERE / "qemu", _unpack_qemu).iterdir()
    return Path(found)


def _unpack_qemu(folder: Path) -> None:
    unpacked = folder.parent / "unpacked"
    _debian(unpacked, ("qemu-user-static",), run(require("dpkg"), "--print-architecture").strip())
    program = next(path for name in EMULATORS for path in unpacked.glob(f"usr/bin/{name}"))
    program.rename(folder / program.name)  # the forty other processors stay behind


def _unpack_debian(folder: Path) -> None:
    try:
        _debian(folder, DEBIAN, "arm64")
    except Missing as missing:
        hint = "Ubuntu has arm64 in an archive of its own, which apt's sources must name"
        raise Missing(f"no Python for arm64 from apt; {hint}. {missing}") from None
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")  # in newer releases a package of its own says so


def _debian(folder: Path, packages: Sequence[str], architecture: str) -> None:
    """Unpack packages and all that they depend on."""
    state = folder.parent / f"state-{folder.name}"
    apt = [require("apt-get"), *apt_options(state, architecture), "-qq"]
    download = [*apt, "-y", "--no-install-recommends", "--download-only", "install", *packages]
    run(*apt, "update")
    run(*download)
    # executorch links the library of the very release that Debian's Python depends on.
    for path in (state / "archives").glob("python3.*-minimal_*.deb"):
        run(*download, "lib" + path.name.partition("-minimal_")[0])
    for path in (state / "archives").glob("*.deb"):
        run(require("dpkg-deb"), "-x", path, folder)


def _install(folder: Path, version: str) -> None:
    platforms = [part for tag in PLATFORMS for part in ("--platform", tag)]
    run(
        sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--no-deps",
        "--only-binary=:all:", "--python-version", version, *platforms, "--target", folder, "-c", CONSTRAINTS,
        *PYTHON_PACKAGES, CUDA_RUNTIME,
    )  # fmt: skip
    for name in CUDA:
        Path(folder, "nvidia/cu13/lib", name).write_bytes(without_functions(name))
    Path(folder, "sitecustomize.py").write_text(BIND_LATE, encoding="utf-8")
