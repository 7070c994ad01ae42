"""llama-quantize itself: ``llama_model_quantize`` out of the prebuilt ``@node-llama-cpp/linux-x64`` package.

It runs in a process of its own, because its ggml and the one inside the ``xllamacpp`` wheel export the same symbols.
The library prints what it does; the caller sees it when it fails.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / ".cache/node/node_modules/@node-llama-cpp/linux-x64"
LIBRARIES = PACKAGE / "bins/linux-x64"
FTYPE_Q8_0 = 7


class _Params(ctypes.Structure):
    """``struct llama_model_quantize_params``. Source: llama.cpp ``include/llama.h``."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tensor_types", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
    )


class _Importance(ctypes.Structure):
    """``struct llama_model_imatrix_data``; an array of them ends with one without a name."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


def why_unavailable() -> str | None:
    """The reason to skip a test that needs this oracle, if there is one."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the prebuilt llama-quantize is for Linux on x86-64"
    if not LIBRARIES.is_dir():
        return "llama-quantize is not installed: npm install --prefix .cache/node @node-llama-cpp/linux-x64@3.22.1"
    return None


def quantize(source: Path, target: Path, ftype: int, *, pure: bool = False, imatrix: Path | None = None) -> None:
    """Write ``source`` as ``target`` with llama.cpp's file type ``ftype`` (``enum llama_ftype``).

    ``pure`` gives every tensor the file type's own type instead of llama-quantize's mixture. ``imatrix`` is an
    importance matrix as GGUF.
    """
    arguments = [sys.executable, __file__, str(source), str(target), str(ftype), str(int(pure)), str(imatrix or "")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"llama-quantize failed:\n{done.stdout}{done.stderr}"


def _importances(path: str) -> ctypes.Array[_Importance]:
    """As llama-quantize's own command reads them: sums divided by counts (``tools/quantize/quantize.cpp``)."""
    import gguf
    import numpy as np

    stored = {t.name: np.array(t.data, np.float32).reshape(-1) for t in gguf.GGUFReader(path).tensors}
    names = [name.removesuffix(".in_sum2") for name in stored if name.endswith(".in_sum2")]
    entries = (_Importance * (len(names) + 1))()
    for entry, name in zip(entries, names, strict=False):
        values = stored[f"{name}.in_sum2"] / stored[f"{name}.counts"][0]
        entry.name, entry.size = name.encode(), len(values)
        entry.data = (ctypes.c_float * len(values))(*values.tolist())
    return entries


def _main(source: str, target: str, ftype: str, pure: str, imatrix: str) -> int:
    for name in ("libggml-base.so", "libggml.v0.5.0.so"):
        ctypes.CDLL(str(LIBRARIES / name), mode=ctypes.RTLD_GLOBAL)
    llama = ctypes.CDLL(str(LIBRARIES / "libllama.v0.5.0.so"))
    llama.llama_model_quantize_default_params.restype = _Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]
    llama.llama_model_quantize.restype = ctypes.c_uint32

    params = llama.llama_model_quantize_default_params()
    defaults = (params.nthread, params.ftype, params.quantize_output_tensor, params.pure, params.imatrix)
    assert defaults == (0, FTYPE_Q8_0, True, False, None), f"another struct layout: {defaults}"
    params.nthread, params.ftype, params.pure = 1, int(ftype), pure == "1"
    if imatrix:
        importances = _importances(imatrix)
        params.imatrix = ctypes.cast(importances, ctypes.c_void_p)
    return int(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
