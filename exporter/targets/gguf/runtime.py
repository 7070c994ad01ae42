"""llama.cpp as the judge of every GGUF this exporter writes.

Each call starts a child process (:mod:`exporter.targets.gguf.llama_worker`), so that a file that makes llama.cpp
abort costs an error message and not the export, and so that its memory is measured on its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import exporter
from exporter.errors import RuntimeUnavailableError, TargetError
from exporter.targets.gguf import llama_cpp

# What a child process needs to start and find its libraries; everything else, tokens and keys included, stays here.
_INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def llama_cpp_version() -> str | None:
    """What is installed, e.g. ``xllamacpp 2026.10.11549 (llama.cpp b11549)``; ``None`` if nothing. Loads nothing."""
    installed = llama_cpp.installed()
    if not installed:
        return None
    package, version = next((key for key in installed if key in llama_cpp.RELEASES), installed[0])
    release = llama_cpp.RELEASES.get((package, version))
    return f"{package} {version} ({f'llama.cpp {release.build}' if release else 'never checked'})"


def llama_cpp_build() -> str | None:
    """The build of llama.cpp inside, e.g. ``b11549``; ``None`` if there is none that was checked. Loads nothing."""
    return llama_cpp.RELEASES[llama_cpp.checked()].build if available() else None


def available() -> bool:
    """Whether :class:`LlamaCpp` can be used here."""
    try:
        llama_cpp.checked()
    except RuntimeUnavailableError:
        return False
    return True


@dataclass(frozen=True)
class Generation:
    """A greedy continuation.

    Attributes:
        text: What the model said, without the token that ended it.
        ids: Its tokens.
        stopped: Whether the model ended its turn itself; ``False`` when ``n_predict`` ran out.
        n_prompt: Tokens of the prompt.
        tokens_per_second: Speed of the generation, prompt excluded.
        load_seconds: Time to load the file.
    """

    text: str
    ids: list[int]
    stopped: bool
    n_prompt: int
    tokens_per_second: float
    load_seconds: float


class LlamaCpp:
    """One GGUF file in llama.cpp on the CPU, each call in a fresh process.

    Args:
        path: The file, or the first shard (``-00001-of-0000N.gguf``) of a split model.
        n_threads: Threads of each call; by default every core this process may use.

    Attributes:
        peak_anon_bytes: Highest anonymous memory of any call so far (weights are mapped from the file and do not
            count); ``None`` where the system does not tell, which is everywhere but Linux.
        peak_rss_bytes: Highest resident memory of any call so far, mapped weights included.

    Raises:
        RuntimeUnavailableError: llama.cpp is not installed, or in a release that nobody checked.
        TargetError: From the constructor when the file does not exist; from every method when llama.cpp refuses
            the file or dies of it, with llama.cpp's own last words.
    """

    def __init__(self, path: Path, n_threads: int | None = None) -> None:
        llama_cpp.checked()
        if not path.is_file():
            raise TargetError(f"no such GGUF file: {path}")
        self.path = path
        self.n_threads = n_threads or _usable_cores()
        self.peak_anon_bytes: int | None = None
        self.peak_rss_bytes = 0

    def logits(self, token_ids: Sequence[int], prefill: int | None = None) -> npt.NDArray[np.float32]:
        """Scores of every next token after every position.

        The key/value cache is float32 and flash attention is off: what remains against PyTorch is the order of
        summation, and for quantized files llama.cpp's 8-bit activations.

        Args:
            token_ids: Token ids of one sequence, special tokens included.
            prefill: The first ``prefill`` tokens run as a prompt, the rest one at a time through the cache as in
                generation. ``None`` runs all as a prompt.

        Returns:
            float32 ``[len(token_ids), n_vocab]``, read-only and mapped from a file that disappears with the array.
        """
        if not token_ids:
            raise TargetError("no token to compute logits for", expected="at least one token id", found="none")
        with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
            out = Path(folder, "logits.npy")
            ids = [int(i) for i in token_ids]
            self._ask("logits", ids=ids, prefill=prefill, n_threads=self.n_threads, out=str(out))
            return np.asarray(np.load(out, mmap_mode="r"))

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = False, parse_special: bool = False
    ) -> list[list[int]]:
        """Token ids of each text.

        Args:
            texts: Any strings.
            add_special: Add the start and end tokens that the file's metadata asks for.
            parse_special: Recognise special tokens by their published names inside the text.
        """
        flags = {"add_special": add_special, "parse_special": parse_special}
        ids: list[list[int]] = self._ask("tokenize", texts=list(texts), **flags)["ids"]
        return ids

    def detokenize(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids, special tokens by their names."""
        texts: list[str] = self._ask("detokenize", ids=[list(ids) for ids in sequences])["texts"]
        return texts

    def generate(self, prompt: str | Sequence[int], n_predict: int = 128, *, add_special: bool = False) -> Generation:
        """Continue ``prompt`` greedily with llama.cpp's default cache and attention, as its users run it.

        Args:
            prompt: Text, special tokens by their names, or token ids.
            n_predict: Tokens to generate at most.
            add_special: As in :meth:`tokenize`; off because a chat template writes the start token itself.
        """
        tokens = prompt if isinstance(prompt, str) else [int(i) for i in prompt]
        if not tokens:
            raise TargetError("nothing to continue", expected="a prompt of at least one token", found="an empty one")
        limits = {"n_predict": n_predict, "n_threads": self.n_threads}
        return Generation(**self._ask("generate", prompt=tokens, add_special=add_special, **limits))

    def greedy(self, token_ids: Sequence[int], n_predict: int) -> list[int]:
        """See :class:`exporter.targets.base.Runtime`."""
        return self.generate(token_ids, n_predict).ids

    def metadata(self) -> dict[str, str]:
        """Every scalar key of the file as llama.cpp prints it; arrays are left out."""
        values: dict[str, str] = self._ask("metadata")["metadata"]
        return values

    def eog_ids(self) -> list[int]:
        """Every token id that ends a generation for llama.cpp, ascending."""
        ids: list[int] = self._ask("eog")["ids"]
        return ids

    def _ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Run the worker on one request and return its result, or raise what it says."""
        question = json.dumps({"request": request, "model": str(self.path), **arguments})
        # subprocess.run kills the child on every exception here, Ctrl-C included.
        child = subprocess.run(
            [sys.executable, "-P", "-m", "exporter.targets.gguf.llama_worker"],
            input=question.encode(),
            capture_output=True,
            env=_environment(),
            check=False,
        )
        if child.returncode != 0:
            raise TargetError(
                f"llama.cpp died on {self.path.name} ({_cause(child.returncode)})",
                expected="a file that llama.cpp loads and runs",
                found=_said(child.stderr.decode(errors="replace").splitlines()[-5:]),
                hint="export it again; if it dies again, the file is one that llama.cpp cannot run",
            )
        answer = json.loads(child.stdout)
        if "error" in answer:
            raise self._refusal(answer["error"])
        memory = answer["memory"]
        self.peak_rss_bytes = max(self.peak_rss_bytes, memory["peak_rss_bytes"])
        if memory["peak_anon_bytes"] is not None:
            self.peak_anon_bytes = max(self.peak_anon_bytes or 0, memory["peak_anon_bytes"])
        result: dict[str, Any] = answer["result"]
        return result

    def _refusal(self, error: dict[str, Any]) -> TargetError | RuntimeUnavailableError:
        kind = RuntimeUnavailableError if error["kind"] == RuntimeUnavailableError.__name__ else TargetError
        found = "; ".join(filter(None, (error["found"], _said(error["log"]) if error["log"] else None)))
        return kind(error["message"], expected=error["expected"], found=found or None, hint=error["hint"])


def _said(lines: Sequence[str]) -> str:
    return "llama.cpp said: " + (" | ".join(line.strip() for line in lines if line.strip()) or "nothing")


def _cause(returncode: int) -> str:
    """A negative return code is the number of the signal that ended the process."""
    return f"exit code {returncode}" if returncode > 0 else signal.Signals(-returncode).name


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment() -> dict[str, str]:
    """The child's variables. It must import this very package, also when it runs from a clone."""
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    root = str(Path(exporter.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
    # Threads that wait by spinning starve each other on a busy machine: 2 tokens/s instead of 66 with both of two cores
    # taken. Sleeping costs half the speed of a small model on an idle one, which a judge can afford.
    env["OMP_WAIT_POLICY"] = "passive"
    env["GGML_NO_BACKTRACE"] = "1"  # On an abort ggml would start a debugger to print its stack.
    return env
