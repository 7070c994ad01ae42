"""ggml itself: ``ggml_quantize_chunk``, the function llama-quantize calls, out of the prebuilt ``xllamacpp`` wheel.

The wheel's extension module exports ggml's C API (``ggml/include/ggml.h``), so ctypes needs no compiler. Only its build
for x86-64 is a reference: elsewhere a C compiler may fuse multiplications and additions, which changes last bits.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest


@functools.cache
def _library() -> ctypes.CDLL:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("ggml is a bit-exact reference only as built for x86-64")
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        pytest.skip("the xllamacpp wheel, which carries ggml, is not installed")
    path = next(Path(spec.origin).parent.glob("xllamacpp.*.so"))
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_init.argtypes = [ctypes.c_int]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # enum ggml_type
        ctypes.c_void_p,  # const float * src
        ctypes.c_void_p,  # void * dst
        ctypes.c_int64,  # start, in elements
        ctypes.c_int64,  # nrows
        ctypes.c_int64,  # n_per_row
        ctypes.c_void_p,  # const float * imatrix
    ]
    return library


def quantize(
    rows: npt.NDArray[np.float32], type_name: str, importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """ggml's encoding of float32 ``[n_rows, n_cols]`` as ``uint8 [n_rows, row_nbytes]``; importance ``[n_cols]``."""
    ggml_type = gguf.GGMLQuantizationType[type_name]
    block, nbytes = gguf.GGML_QUANT_SIZES[ggml_type]
    source = np.ascontiguousarray(rows, np.float32)
    n_rows, n_cols = source.shape
    encoded = np.empty((n_rows, n_cols // block * nbytes), np.uint8)
    library = _library()
    library.ggml_quantize_init(ggml_type)
    columns = None if importance is None else np.ascontiguousarray(importance, np.float32)
    written = library.ggml_quantize_chunk(
        ggml_type, source.ctypes.data, encoded.ctypes.data, 0, n_rows, n_cols,
        None if columns is None else columns.ctypes.data,
    )  # fmt: skip
    assert written == encoded.nbytes
    return encoded
