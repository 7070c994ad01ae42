"""Where compiled kernels are kept: in a folder named after the source of all kernels.

numba caches machine code beside each file and looks only at that file. A kernel that inlines a helper from another file
would keep running the old helper after an update, so a change to any of them starts a new folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = ("simd/*.py", "quant/rounding/*.py", "targets/*/kernels/*.py")
"""Every file that defines a kernel or something a kernel inlines."""


@functools.cache
def kernel_cache_folder() -> Path:
    """The folder for this version of the kernels, inside the package where that can be written."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(PACKAGE.glob(pattern)):
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    name = f"kernels-{digest.hexdigest()[:16]}"
    beside = PACKAGE / "simd" / "__pycache__"
    if os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return beside / name
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "exporter" / name
