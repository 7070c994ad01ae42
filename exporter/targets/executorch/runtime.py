"""An exported program in ExecuTorch, the engine of the iOS and Android apps, through its Python bindings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import exporter
from exporter.errors import TargetError
from exporter.targets.executorch import wheel

WORKER = (sys.executable, "-P", "-W", "ignore", "-m", "exporter.targets.executorch.worker")
"""Command line of a child on this machine."""


class ExecuTorch:
    """See :class:`exporter.targets.base.Runtime`.

    Each call starts a child process, so that a program that makes ExecuTorch abort costs an error message and not the
    export.

    Args:
        path: The ``.pte`` file; its tokenizer lies beside it.
        data: The ``.ptd`` file of its weights, if they have one.
        worker: Command line of a child; another one runs the program on another processor.

    Raises:
        RuntimeUnavailableError: See :func:`exporter.targets.executorch.wheel.require`.
    """

    def __init__(self, path: Path, data: Path | None = None, *, worker: Sequence[str] = WORKER) -> None:
        wheel.require()
        self.path = path
        self.data = data
        self._worker = worker

    def logits(self, token_ids: Sequence[int], prefill: int | None = None) -> npt.NDArray[np.float32]:
        """Logits at every position, ``[n_tokens, vocab_size]``.

        The program gives the last token's logits only, as the runner wants them. So the positions before the end of
        the prompt are asked for one by one; then the prompt enters again from position 0 as the runner lets it, in
        one batch or several, which writes every key and value anew and gives the logits of its last position; then the
        rest follows one by one. All that follows reads what the batches have written.

        Raises:
            TargetError: If there are more tokens than the cache has positions, or ExecuTorch fails.
        """
        self._require_room(len(token_ids))
        with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
            out = Path(folder, "logits.npy")
            ids = [int(i) for i in token_ids]
            self._ask("logits", ids=ids, prefill=len(ids) if prefill is None else prefill, out=str(out))
            found: npt.NDArray[np.float32] = np.load(out)
            return found

    def greedy(self, token_ids: Sequence[int], n_predict: int) -> list[int]:
        """See :class:`exporter.targets.base.Runtime`; the prompt enters as the runner lets it.

        Raises:
            TargetError: If prompt and answer do not fit into the cache, or ExecuTorch fails.
        """
        self._require_room(len(token_ids) + n_predict)
        ids = [int(i) for i in token_ids]
        found: list[int] = self._ask("greedy", ids=ids, n_predict=n_predict, stops=self.eog_ids())
        return found

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = False, parse_special: bool = False
    ) -> list[list[int]]:
        from tokenizers import Tokenizer

        try:
            backend = Tokenizer.from_file(str(self.path.parent / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing more specific
            raise TargetError("tokenizers refuses tokenizer.json", found=error) from None
        backend.encode_special_tokens = not parse_special
        return [backend.encode(text, add_special_tokens=add_special).ids for text in texts]

    def eog_ids(self) -> list[int]:
        found = self.constants["get_eos_ids"]
        return found if isinstance(found, list) else [found]

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Name -> value of the program's constant methods."""
        found: dict[str, Any] = self._ask("constants")
        return found

    def generate(self, prompt: str, max_new_tokens: int, *, tokenizer: str = "tokenizer.json") -> str:
        """What the C++ ``TextLLMRunner`` says to a prompt, greedily; special tokens in it by their names.

        ``tokenizer`` is the file beside the program that it takes: Hugging Face's, or Meta's where there is one.
        """
        path = str(self.path.parent / tokenizer)
        said: str = self._ask("generate", prompt=prompt, max_new_tokens=max_new_tokens, tokenizer=path)
        return said

    def _require_room(self, n_tokens: int) -> None:
        context = self.constants["get_max_context_len"]
        if n_tokens > context:
            raise TargetError(
                "the text is longer than the program's cache",
                expected=f"at most {context} tokens",
                found=n_tokens,
                hint="export it again with a larger --max-seq-len",
            )

    def _ask(self, request: str, **arguments: Any) -> Any:
        data = None if self.data is None else str(self.data)
        question = json.dumps({"request": request, "model": str(self.path), "data": data, **arguments})
        # subprocess.run kills the child on every exception here, Ctrl-C included.
        child = subprocess.run(
            self._worker,
            input=question.encode(),
            capture_output=True,
            env=environment(),
            check=False,
        )
        if child.returncode != 0:
            last = [line for line in child.stderr.decode(errors="replace").splitlines() if line.strip()][-3:]
            raise TargetError(
                f"ExecuTorch fails on {self.path.name} ({_cause(child.returncode)})",
                expected="a program that it loads and runs",
                found="ExecuTorch said: " + (" | ".join(last) or "nothing"),
            )
        return json.loads(child.stdout)


def _cause(returncode: int) -> str:
    """A negative return code is the number of the signal that ended the process."""
    return f"exit code {returncode}" if returncode > 0 else signal.Signals(-returncode).name


def environment() -> dict[str, str]:
    """The variables of a child that runs programs. It must import this very package, also when it runs from a clone."""
    root = str(Path(exporter.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # Threads that wait by spinning starve each other on a busy machine (measured: half the time of a decode step).
    return {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path}
