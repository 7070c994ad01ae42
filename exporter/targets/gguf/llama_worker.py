"""One llama.cpp request in a process of its own: ``python -m exporter.targets.gguf.llama_worker``.

llama.cpp aborts the process on some malformed files and keeps memory and threads to itself, so the exporter never
loads it. A JSON object comes on stdin, one goes to stdout; arrays travel as ``.npy`` files whose paths the parent
chooses. The parent's side is :mod:`exporter.targets.gguf.runtime`, which documents what each request means.

Answer: ``{"result": {...}, "memory": {...}}`` or ``{"error": {"message", "log"}}``; ``log`` holds the last things
llama.cpp said. Warnings and errors also go to stderr at once, which is what a parent has left after a crash.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import create_string_buffer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import ExporterError, TargetError
from exporter.targets.gguf import llama_cpp

BATCH = 128
"""Tokens per llama_decode. Bounds the logits held at once: 66 MB at 128,256 tokens of vocabulary."""

SAMPLE_SECONDS = 0.01
"""Between two looks at the anonymous memory, for which Linux keeps no peak."""

_STATUS = Path("/proc/self/status")

LOG_WARNING, LOG_ERROR, LOG_CONTINUES = 3, 4, 5

Request = dict[str, Any]


class Log:
    """Collects what llama.cpp says; warnings and errors are also written to stderr."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self._level = 0
        self.callback = llama_cpp.LogCallback(self._receive)

    def _receive(self, level: int, text: bytes, _: object) -> None:
        self._level = self._level if level == LOG_CONTINUES else level
        if self._level >= LOG_WARNING:
            os.write(2, text)
        self.lines.append((self._level, text.decode(errors="replace").strip()))

    def last_words(self, n: int = 3) -> list[str]:
        """The last ``n`` errors or, where there was none, the last ``n`` warnings."""
        errors, warnings = (
            [text for level, text in self.lines if level == wanted and text] for wanted in (LOG_ERROR, LOG_WARNING)
        )
        return (errors or warnings)[-n:]


class Model:
    """A loaded GGUF file, or only its vocabulary and metadata."""

    def __init__(self, library: Any, path: str, *, vocab_only: bool = False, repack: bool = False) -> None:
        params = library.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = llama_cpp.LOAD_MODE_MMAP
        params.vocab_only = vocab_only
        # Repacking copies every quantized weight into anonymous memory; worth it for generation only.
        params.use_extra_bufts = repack
        self.library = library
        self.handle = library.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise TargetError(f"llama.cpp does not load {path}")
        self.vocab = library.llama_model_get_vocab(self.handle)
        self.n_vocab: int = library.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = np.empty(len(data) + 8, np.int32)
        n = self.library.llama_tokenize(
            self.vocab, data, len(data), _int32_pointer(room), len(room), add_special, parse_special
        )
        if n < 0:
            raise TargetError("llama.cpp does not tokenize", found=repr(text))
        return [int(i) for i in room[:n]]

    def detokenize(self, ids: Sequence[int]) -> str:
        tokens = np.asarray(ids, np.int32)
        size = 64
        while True:
            room = create_string_buffer(size)
            n = self.library.llama_detokenize(self.vocab, _int32_pointer(tokens), len(tokens), room, size, False, True)
            if n >= 0:
                return room.raw[:n].decode(errors="replace")
            size = -n

    def is_eog(self, token: int) -> bool:
        return bool(self.library.llama_vocab_is_eog(self.vocab, token))

    def metadata(self) -> dict[str, str]:
        read = (self.library.llama_model_meta_key_by_index, self.library.llama_model_meta_val_str_by_index)
        n = self.library.llama_model_meta_count(self.handle)
        return dict(tuple(_read_string(f, self.handle, i) for f in read) for i in range(n))  # type: ignore[misc]


class Context:
    """A model's key/value cache and compute buffers for one sequence of at most ``n_ctx`` tokens.

    With ``exact`` the cache is float32 and flash attention is off, so that a file of float32 weights agrees with
    PyTorch to about 1e-4; otherwise llama.cpp's own defaults hold, as for its users.
    """

    def __init__(self, model: Model, n_ctx: int, n_threads: int, *, exact: bool) -> None:
        library = model.library
        params = library.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = params.n_outputs_max = params.n_outputs_max_per_seq = BATCH
        params.n_threads = params.n_threads_batch = n_threads
        if exact:
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
            params.flash_attn_type = llama_cpp.FLASH_ATTN_DISABLED
        self.model = model
        self.n_past = 0
        self.handle = library.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise TargetError(f"llama.cpp does not open a context of {n_ctx} tokens")
        self.batch = library.llama_batch_init(BATCH, 0, 1)

    def decode(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append at most ``BATCH`` tokens; logits ``float32 [len(ids), n_vocab]``, valid until the next call."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = self.n_past + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        status = self.model.library.llama_decode(self.handle, batch)
        if status != 0:
            raise TargetError(
                f"llama.cpp refuses tokens {self.n_past} to {self.n_past + len(ids) - 1}",
                expected=f"token ids below {self.model.n_vocab}",
                found=f"llama_decode returned {status}",
            )
        self.n_past += len(ids)
        pointer = self.model.library.llama_get_logits(self.handle)
        return np.ctypeslib.as_array(pointer, shape=(len(ids), self.model.n_vocab))


def logits(library: Any, request: Request) -> Request:
    ids: list[int] = request["ids"]
    prefill = len(ids) if request["prefill"] is None else int(request["prefill"])
    model = Model(library, request["model"])
    context = Context(model, len(ids), request["n_threads"], exact=True)
    out = np.lib.format.open_memmap(request["out"], mode="w+", dtype=np.float32, shape=(len(ids), model.n_vocab))
    starts = [*range(0, prefill, BATCH), *range(prefill, len(ids))]
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        out[start:stop] = context.decode(ids[start:stop])
    out.flush()
    return {}


def tokenize(library: Any, request: Request) -> Request:
    model = Model(library, request["model"], vocab_only=True)
    flags = {name: request[name] for name in ("add_special", "parse_special")}
    return {"ids": [model.tokenize(text, **flags) for text in request["texts"]]}


def detokenize(library: Any, request: Request) -> Request:
    model = Model(library, request["model"], vocab_only=True)
    return {"texts": [model.detokenize(ids) for ids in request["ids"]]}


def metadata(library: Any, request: Request) -> Request:
    return {"metadata": Model(library, request["model"], vocab_only=True).metadata()}


def eog(library: Any, request: Request) -> Request:
    model = Model(library, request["model"], vocab_only=True)
    return {"ids": [i for i in range(model.n_vocab) if model.is_eog(i)]}


def generate(library: Any, request: Request) -> Request:
    started = time.perf_counter()
    model = Model(library, request["model"], repack=True)
    load_seconds = time.perf_counter() - started
    prompt: str | list[int] = request["prompt"]
    if isinstance(prompt, str):
        prompt = model.tokenize(prompt, add_special=request["add_special"], parse_special=True)
    context = Context(model, len(prompt) + request["n_predict"], request["n_threads"], exact=False)
    for start in range(0, len(prompt), BATCH):
        scores = context.decode(prompt[start : start + BATCH])
    ids: list[int] = []
    stopped = False
    started = time.perf_counter()
    while len(ids) < request["n_predict"]:
        token = int(scores[-1].argmax())
        stopped = model.is_eog(token)
        if stopped:
            break
        ids.append(token)
        scores = context.decode([token])
    seconds = time.perf_counter() - started
    return {
        "text": model.detokenize(ids),
        "ids": ids,
        "stopped": stopped,
        "n_prompt": len(prompt),
        "tokens_per_second": len(ids) / seconds,
        "load_seconds": load_seconds,
    }


REQUESTS: dict[str, Callable[[Any, Request], Request]] = {
    f.__name__: f for f in (logits, tokenize, detokenize, generate, metadata, eog)
}


def _int32_pointer(array: npt.NDArray[np.int32]) -> Any:
    return np.ctypeslib.as_ctypes(array)


def _read_string(read: Callable[..., int], handle: Any, index: int) -> str:
    """A string of unknown length: the function answers the length it needs, like ``snprintf``."""
    n = read(handle, index, None, 0)
    room = create_string_buffer(n + 1)
    read(handle, index, room, n + 1)
    return room.raw[:n].decode(errors="replace")


@contextmanager
def peak_memory(report: dict[str, int | None]) -> Iterator[None]:
    """Fill ``report`` with this process's peaks in bytes: anonymous memory (Linux only, sampled) and all memory."""
    peaks = {"RssAnon": 0, "VmHWM": 0}
    done = threading.Event()

    def sample() -> None:
        while True:
            for line in _STATUS.read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]) << 10)
            if done.wait(SAMPLE_SECONDS):
                return

    sampler = threading.Thread(target=sample, daemon=True)
    if _STATUS.exists():
        sampler.start()
    try:
        yield
    finally:
        done.set()
        if sampler.is_alive():
            sampler.join()
        # Not asked on Linux, where ru_maxrss survives exec and may be the parent's.
        rss = peaks["VmHWM"] or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report |= {"peak_anon_bytes": peaks["RssAnon"] or None, "peak_rss_bytes": rss}


def answer(request: Request) -> Request:
    """Serve one request; every expected failure becomes an ``error`` entry."""
    log = Log()
    memory: dict[str, int | None] = {}
    try:
        library = llama_cpp.load()
        library.llama_log_set(log.callback, None)
        library.llama_backend_init()
        with peak_memory(memory):
            result = REQUESTS[request["request"]](library, request)
    except ExporterError as e:
        fields = {name: getattr(e, name) for name in ("message", "expected", "found", "hint")}
        return {"error": {**fields, "kind": type(e).__name__, "log": log.last_words()}}
    return {"result": result, "memory": memory}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for the native call to return.
    stdout = os.dup(1)
    os.dup2(2, 1)  # Nothing that native code prints may end up in the answer.
    text = json.dumps(answer(json.load(sys.stdin)))
    with os.fdopen(stdout, "w") as file:
        file.write(text)
    os._exit(0)  # The kernel frees a model faster than llama.cpp does.


if __name__ == "__main__":
    main()
