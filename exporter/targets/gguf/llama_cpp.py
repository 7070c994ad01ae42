"""llama.cpp's C API by ctypes, out of a prebuilt wheel: no compiler on the user's machine.

The wheel ``xllamacpp`` exports every function of ``llama.h``; where ``llama-cpp-python`` is installed, its bindings
serve too. C structs carry no version, and llama.cpp inserts fields in the middle of them between releases, so this
shim is tied to the releases in :data:`RELEASES`: another one is refused by name, and a known one must still return,
field by field, the defaults that its table promises.

This module and :mod:`exporter.targets.gguf.llama_worker` run in a child process and import nothing heavy.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import RuntimeUnavailableError

Field = tuple[str, Any, Any]
"""Name, ctypes type and value that the library's ``*_default_params()`` must return."""


@dataclass(frozen=True)
class Release:
    """One release of a Python package that this shim was checked against.

    Attributes:
        build: The llama.cpp inside: build tag or commit.
        llama_version: What its ``llama_version()`` answers.
        model_params: Fields of ``struct llama_model_params`` in order.
        context_params: Fields of ``struct llama_context_params`` in order.
    """

    build: str
    llama_version: str
    model_params: tuple[Field, ...]
    context_params: tuple[Field, ...]


# Source: ``include/llama.h`` of ggml-org/llama.cpp at 0c1e57098.
_MODEL_PARAMS: tuple[Field, ...] = (
    ("devices", c_void_p, None),
    ("tensor_buft_overrides", c_void_p, None),
    ("n_gpu_layers", c_int32, -1),
    ("split_mode", c_int32, 1),
    ("load_mode", c_int32, -1),
    ("lazy_mode", c_int32, 1),
    ("main_gpu", c_int32, 0),
    ("tensor_split", c_void_p, None),
    ("progress_callback", c_void_p, None),
    ("progress_callback_user_data", c_void_p, None),
    ("kv_overrides", c_void_p, None),
    ("vocab_only", c_bool, False),
    ("check_tensors", c_bool, False),
    ("use_extra_bufts", c_bool, True),
    ("no_host", c_bool, False),
    ("no_alloc", c_bool, False),
    ("load_mtp", c_bool, False),
)

_CONTEXT_HEAD: tuple[Field, ...] = (
    ("n_ctx", c_uint32, 512),
    ("n_batch", c_uint32, 2048),
    ("n_ubatch", c_uint32, 512),
    ("n_seq_max", c_uint32, 1),
    ("n_rs_seq", c_uint32, 0),
    ("n_outputs_max", c_uint32, 0),
    ("n_outputs_max_per_seq", c_uint32, 1),
    ("n_threads", c_int32, 4),
    ("n_threads_batch", c_int32, 4),
    ("ctx_type", c_int32, 0),
    ("rope_scaling_type", c_int32, -1),
    ("pooling_type", c_int32, -1),
    ("attention_type", c_int32, -1),
    ("flash_attn_type", c_int32, -1),
    ("rope_freq_base", c_float, 0.0),
    ("rope_freq_scale", c_float, 0.0),
    ("yarn_ext_factor", c_float, -1.0),
    ("yarn_attn_factor", c_float, -1.0),
    ("yarn_beta_fast", c_float, -1.0),
    ("yarn_beta_slow", c_float, -1.0),
    ("yarn_orig_ctx", c_uint32, 0),
    ("defrag_thold", c_float, -1.0),
    ("cb_eval", c_void_p, None),
    ("cb_eval_user_data", c_void_p, None),
    ("type_k", c_int32, 1),
    ("type_v", c_int32, 1),
)

_CONTEXT_TAIL: tuple[Field, ...] = (
    ("abort_callback", c_void_p, None),
    ("abort_callback_data", c_void_p, None),
    ("embeddings", c_bool, False),
    ("offload_kqv", c_bool, True),
    ("no_perf", c_bool, True),
    ("op_offload", c_bool, True),
    ("swa_full", c_bool, True),
    ("kv_unified", c_bool, False),
    ("samplers", c_void_p, None),
    ("n_samplers", c_size_t, 0),
    ("ctx_other", c_void_p, None),
)

# b11549 has eight more bytes here. No published copy of its header is at hand, so their name is unknown, their place
# is not: the constructor of llama_context reads them, and the next two pointers are what it hands on as the abort
# callback and its data.
_CONTEXT_NEW: tuple[Field, ...] = (("unnamed_after_type_v", c_void_p, None),)

RELEASES: dict[tuple[str, str], Release] = {
    ("xllamacpp", "2026.10.11549"): Release(
        "b11549", "0.6.0-dev", _MODEL_PARAMS, _CONTEXT_HEAD + _CONTEXT_NEW + _CONTEXT_TAIL
    ),
    ("xllamacpp", "2026.9.11063"): Release("b11063", "0.4.1-dev", _MODEL_PARAMS, _CONTEXT_HEAD + _CONTEXT_TAIL),
    # Compiled by pip from source. Its bindings were run on the library of b11063, whose header is the same; the
    # library it compiles itself was not.
    ("llama-cpp-python", "0.3.36"): Release("0c1e57098", "0.5.0-dev", _MODEL_PARAMS, _CONTEXT_HEAD + _CONTEXT_TAIL),
}
"""(Package, version) -> what was checked; the first row is the one to install."""


class Batch(Structure):
    """``struct llama_batch``: tokens with their positions, sequences and whether their logits are wanted."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


# A struct longer than its table must not write past the memory ctypes gave it before verify() can refuse it. Both
# structs are only ever the last argument by value, where extra bytes at the end are never looked at.
_SPARE_ROOM = ("_spare_room", c_int8 * 256)

LogCallback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
"""``ggml_log_callback(level, text, user_data)``; levels: 1 debug, 2 info, 3 warning, 4 error, 5 continues a line."""

LOAD_MODE_MMAP = 1
FLASH_ATTN_DISABLED = 0
GGML_TYPE_F32 = 0


def installed() -> list[tuple[str, str]]:
    """(Package, version) of every installed package that could serve. Imports and loads nothing."""
    found = []
    for package in dict.fromkeys(package for package, _ in RELEASES):
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def checked() -> tuple[str, str]:
    """The installed (package, version) to run: the first one that has a row in the table.

    Raises:
        RuntimeUnavailableError: No package, or only releases that nobody checked.
    """
    found = installed()
    for key in found:
        if key in RELEASES:
            return key
    raise RuntimeUnavailableError(
        "llama.cpp cannot be run: " + ("this release was never checked" if found else "it is not installed"),
        expected=" or ".join(" ".join(key) for key in RELEASES),
        found=", ".join(" ".join(key) for key in found) or "no such package",
        hint=install_hint(),
    )


def install_hint() -> str:
    """The command that installs the first release of the table."""
    return 'pip install "{}=={}"'.format(*next(iter(RELEASES)))


def load() -> Any:
    """The C API with every prototype declared; functions keep their C names.

    Raises:
        RuntimeUnavailableError: As :func:`checked`, or the library is not what its version says.
    """
    key = checked()
    try:
        library = _LOADERS[key[0]](RELEASES[key])
    except (OSError, ImportError, RuntimeError, AttributeError) as error:
        raise RuntimeUnavailableError(
            f"the library inside {' '.join(key)} does not load",
            expected="every function of llama.h that this exporter calls",
            found=error,
            hint=install_hint() + " --force-reinstall",
        ) from error
    verify(library, RELEASES[key])
    return library


def _load_xllamacpp(release: Release) -> Any:
    """The extension module is an ordinary shared library; its Python side is never imported."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.glob("xllamacpp*.so"))
    if not files:
        raise RuntimeUnavailableError(
            "the xllamacpp package holds no shared library",
            expected="xllamacpp*.so",
            found=", ".join(map(str, folders)) or "no folder",
            hint=install_hint() + " --force-reinstall",
        )
    library = ctypes.CDLL(str(files[0]))
    model_params, context_params = (
        type(name, (Structure,), {"_fields_": [*(field[:2] for field in fields), _SPARE_ROOM]})
        for name, fields in (("ModelParams", release.model_params), ("ContextParams", release.context_params))
    )
    declare(library, model_params, context_params)
    return library


def _load_llama_cpp_python(_: Release) -> Any:
    """Its low-level module declares the same C names, with struct definitions of its own."""
    return importlib.import_module("llama_cpp.llama_cpp")


_LOADERS: dict[str, Callable[[Release], Any]] = {
    "xllamacpp": _load_xllamacpp,
    "llama-cpp-python": _load_llama_cpp_python,
}


def declare(library: Any, model_params: Any, context_params: Any) -> None:
    """Set argument and result types of the functions that the worker calls (``include/llama.h``)."""
    tokens = POINTER(c_int32)
    prototypes: dict[str, tuple[Any, list[Any]]] = {
        "llama_version": (c_char_p, []),
        "llama_log_set": (None, [LogCallback, c_void_p]),
        "llama_backend_init": (None, []),
        "llama_model_default_params": (model_params, []),
        "llama_context_default_params": (context_params, []),
        "llama_model_load_from_file": (c_void_p, [c_char_p, model_params]),
        "llama_model_free": (None, [c_void_p]),
        "llama_model_get_vocab": (c_void_p, [c_void_p]),
        "llama_model_meta_count": (c_int32, [c_void_p]),
        "llama_model_meta_key_by_index": (c_int32, [c_void_p, c_int32, c_char_p, c_size_t]),
        "llama_model_meta_val_str_by_index": (c_int32, [c_void_p, c_int32, c_char_p, c_size_t]),
        "llama_init_from_model": (c_void_p, [c_void_p, context_params]),
        "llama_free": (None, [c_void_p]),
        "llama_vocab_n_tokens": (c_int32, [c_void_p]),
        "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
        "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, tokens, c_int32, c_bool, c_bool]),
        "llama_detokenize": (c_int32, [c_void_p, tokens, c_int32, c_char_p, c_int32, c_bool, c_bool]),
        "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
        "llama_batch_free": (None, [Batch]),
        "llama_decode": (c_int32, [c_void_p, Batch]),
        "llama_get_logits": (POINTER(c_float), [c_void_p]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def verify(library: Any, release: Release) -> None:
    """Refuse a library whose version or default parameters differ from the table.

    The defaults are distinct enough (512, 2048, 4, -1.0, true, ...) that a field inserted, removed or moved
    before the last one that the worker sets shows as a wrong value.

    Raises:
        RuntimeUnavailableError: Naming every field that differs.
    """
    found = {"llama_version()": library.llama_version().decode()}
    expected = {"llama_version()": release.llama_version}
    for function, fields in (
        ("llama_model_default_params", release.model_params),
        ("llama_context_default_params", release.context_params),
    ):
        params = getattr(library, function)()
        found |= {f"{function}().{name}": getattr(params, name, "no such field") for name, _, _ in fields}
        expected |= {f"{function}().{name}": default for name, _, default in fields}
    # Null is None or a false pointer object, depending on who declared the field.
    wrong = [name for name in expected if found[name] != expected[name] and (found[name] or expected[name])]
    if wrong:
        raise RuntimeUnavailableError(
            "the installed llama.cpp does not have the memory layout this exporter knows",
            expected=", ".join(f"{name} = {expected[name]}" for name in wrong),
            found=", ".join(f"{name} = {found[name]}" for name in wrong),
            hint=install_hint() + " --force-reinstall",
        )
