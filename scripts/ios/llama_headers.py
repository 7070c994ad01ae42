"""llama.cpp's own header, as a module that Swift imports: what its xcframework has inside."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

from scripts.fetching import once, run
from scripts.ios.toolchain import HERE

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of the source archive, which has llama.cpp at commit 0c1e57098 in it. No package that can be had here carries the
header of the build that the app links."""

FOLDERS = ("vendor/llama.cpp/include", "vendor/llama.cpp/ggml/include")

MODULE = 'module llama {\n    header "llama.h"\n    export *\n}\n'


def fetch() -> Path:
    """A folder for ``swiftc -I``.

    Raises:
        Missing: pip or a network is missing.
    """
    return once(HERE / f"{PACKAGE}-{VERSION}-headers", _unpack)


def _unpack(folder: Path) -> None:
    print("pip takes minutes for this one: it prepares to compile what it fetches", flush=True)
    wanted = folder.parent / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--require-hashes")
    run(*pip, "-r", wanted, cwd=folder.parent)
    (archive,) = folder.parent.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(*Path(member.name).parts[1:])
            if member.isfile() and path.parent.as_posix() in FOLDERS and path.suffix == ".h":
                source = tar.extractfile(member)
                assert source is not None
                with source, (folder / path.name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    (folder / "module.modulemap").write_text(MODULE, encoding="utf-8")
