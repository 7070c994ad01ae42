"""Some Swift: the one on the PATH, or Debian's, unpacked below ``.cache/ios`` and run there without being installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.checking import Outcome, outcome
from scripts.fetching import CACHE, Missing, apt_options, once, require, run

HERE = CACHE / "ios"

SUITE = "trixie"
"""The first release of Debian with a Swift that has XCTest and Foundation, 6.0.3."""

PACKAGES = ("base-files", "swiftlang", "libc6-dev", "libstdc++-14-dev")
"""With all that they depend on: the system that the compiler was built for, and what it links programs with."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

UNNEEDED = (
    "usr/libexec/swift/lib/swift_static", "usr/libexec/swift/lib/swift/embedded", "usr/libexec/swift/bin/lldb*",
    "usr/libexec/swift/lib/swift/FrameworkABIBaseline", "usr/libexec/swift/lib/liblldb.so*", "usr/share/doc",
    "usr/libexec/swift/lib/libsourcekitdInProc.so", "usr/libexec/swift/lib/libLTO.so*", "usr/share/locale",
    "usr/libexec/swift/bin/clangd", "usr/libexec/swift/bin/docc", "usr/libexec/swift/bin/sourcekit-lsp",
)  # fmt: skip
"""The debugger, editors' servers, other processors: half of two gigabytes."""

LIBRARIES = "/usr/libexec/swift/lib/swift/linux"
"""Which Debian's programs do not find by themselves."""

IN_ROOT = """\
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --bind "$2" "$1/mnt"
root=$1
shift 2
exec env PATH=/usr/libexec/swift/bin:/usr/bin HOME=/mnt TMPDIR=/mnt LD_LIBRARY_PATH={libraries} \\
    unshare --root="$root" --wd=/mnt "$@"
"""
"""What runs a command with ``$1`` as its root and ``$2`` as ``/mnt``. All mounts end with the namespace it runs in."""


@dataclass(frozen=True)
class Toolchain:
    """A Swift that can be run.

    Attributes:
        root: Below which it lies unpacked; ``None`` if it is on the PATH.
    """

    root: Path | None

    def run(self, folder: Path, *command: str, **environment: str) -> Outcome:
        """Run a command in a folder; paths in it are relative, because an unpacked Swift sees nothing else."""
        if self.root is None:
            return outcome(command, folder, **environment)
        script = IN_ROOT.format(libraries=LIBRARIES)
        return outcome([*_namespace(), "sh", "-euc", script, "sh", self.root, folder, *command], folder, **environment)

    def seen(self, folder: Path) -> str:
        """The path of the folder it is run in, as it sees it itself."""
        return str(folder) if self.root is None else "/mnt"


def find() -> Toolchain:
    """The Swift on the PATH, or Debian's, which is fetched if it is not here yet.

    Raises:
        Missing: There is none, and apt, a network or the right to make namespaces is missing.
    """
    if shutil.which("swift"):
        return Toolchain(None)
    namespaces = outcome([*_namespace(), "true"], Path.cwd())
    if not namespaces.ok:
        raise Missing(f"an unpacked one cannot be run: {namespaces.text.strip()}")
    return Toolchain(once(HERE / f"swift-{SUITE}", _unpack))


def _namespace() -> Sequence[str]:
    """A command that runs another one with mounts of its own, and with the right to mount."""
    mine = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return (require("unshare"), "--mount", *mine)


def _unpack(folder: Path) -> None:
    print("Debian's Swift takes half a gigabyte to download and 1.3 on the disk", flush=True)
    state = folder.parent / "state"
    architecture = run(require("dpkg"), "--print-architecture").strip()
    sources = folder.parent / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_archive()} {SUITE} main\n", encoding="utf-8")
    only = ("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null")
    apt = [require("apt-get"), *apt_options(state, architecture), *only, "-qq"]
    run(*apt, "update")
    run(*apt, "-y", "--no-install-recommends", "--download-only", "install", *PACKAGES)
    for path in sorted((state / "archives").glob("*.deb")):
        run(require("dpkg-deb"), "-x", path, folder)
    for path in [path for pattern in UNNEEDED for path in folder.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("proc", "dev", "mnt"):
        (folder / name).mkdir(exist_ok=True)


def _archive() -> str:
    """Where this system has Debian's packages from.

    Raises:
        Missing: Nowhere: it is no Debian.
    """
    if not KEYRING.is_file():
        raise Missing("Debian's keys are not here, without which its packages are not to be trusted")
    targets = run(require("apt-get"), "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    for address in targets.split():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise Missing("no Swift is on the PATH, and apt has no archive of Debian's among its sources")
