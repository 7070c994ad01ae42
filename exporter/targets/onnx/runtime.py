"""An exported variant in ONNX Runtime, the engine behind Transformers.js in Node and in browsers."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.errors import RuntimeUnavailableError, TargetError
from exporter.targets.onnx.reading import read_config

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "onnxruntime"
OLDEST = (1, 31)
"""Older ones were not checked: 8-bit MatMulNBits on the CPU and its float16 forms came step by step."""


def version() -> str | None:
    """The installed release, or ``None``."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def require() -> None:
    """Make sure that ONNX Runtime is there and known.

    Raises:
        RuntimeUnavailableError: It is not installed, or older than every release that was checked.
    """
    found = version()
    if found is None or tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise RuntimeUnavailableError(
            "the check needs ONNX Runtime",
            expected=f"{PACKAGE} >= {'.'.join(map(str, OLDEST))}",
            found=found or "not installed",
            hint="pip install 'llama-exporter[onnx]', or pass --no-verify",
        )


class OnnxRuntime:
    """See :class:`exporter.targets.base.Runtime`.

    Args:
        path: The model file, in the ``onnx`` folder of its repository.

    Raises:
        RuntimeUnavailableError: See :func:`require`.
        TargetError: If ONNX Runtime refuses the model.
    """

    def __init__(self, path: Path) -> None:
        require()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        # Threads that wait by spinning starve each other, and everybody else, on a busy machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.path = path
        self.folder = path.parent.parent
        self._config = read_config(self.folder)
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> TargetError:
        return TargetError(f"ONNX Runtime refuses {self.path.name}", found=f"ONNX Runtime said: {error!s:.400}")

    def run(
        self,
        token_ids: npt.NDArray[np.int64],
        mask: npt.NDArray[np.int64],
        cache: dict[str, Any] | None = None,
        keep: int = 0,
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """One step.

        Args:
            token_ids: ``[batch, n]``, padded on the left in the first step.
            mask: ``[batch, past + n]``, 0 where a token is padding.
            cache: The past inputs by name; empty before the first step.
            keep: Positions whose logits are wanted, from the end; 0 for all.

        Returns:
            Logits ``[batch, kept, vocab_size]`` and the past inputs of the next step.

        Raises:
            TargetError: If ONNX Runtime fails.
        """
        feed = {"input_ids": token_ids, "attention_mask": mask, "num_logits_to_keep": np.array(keep, np.int64)}
        feed |= self._empty_cache(len(token_ids)) if cache is None else cache
        try:
            logits, *present = self._session.run(None, feed)
        except Exception as error:
            raise self._refused(error) from None
        names = [node.name.replace("present", "past_key_values") for node in self._session.get_outputs()[1:]]
        return logits, dict(zip(names, present, strict=True))

    def _empty_cache(self, batch: int) -> dict[str, Any]:
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        return {
            node.name: np.zeros((batch, node.shape[1], 0, node.shape[3]), types[node.type])
            for node in self._session.get_inputs()
            if node.name.startswith("past_key_values")
        }

    def logits(self, token_ids: Sequence[int], prefill: int | None = None) -> npt.NDArray[np.float32]:
        ids = np.array([token_ids], np.int64)
        first = len(token_ids) if prefill is None else prefill
        steps = [0, *range(first, len(token_ids) + 1)]
        cache, found = None, []
        for start, stop in itertools.pairwise(steps):
            scores, cache = self.run(ids[:, start:stop], np.ones((1, stop), np.int64), cache)
            found.append(scores[0])
        return np.concatenate(found)

    def greedy(self, token_ids: Sequence[int], n_predict: int) -> list[int]:
        stops, found = set(self.eog_ids()), list(token_ids)
        cache, start = None, 0
        while len(found) < len(token_ids) + n_predict:
            step = np.array([found[start:]], np.int64)
            start = len(found)
            scores, cache = self.run(step, np.ones((1, start), np.int64), cache, keep=1)
            if (token := int(scores[0, -1].argmax())) in stops:
                break
            found.append(token)
        return found[len(token_ids) :]

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = False, parse_special: bool = False
    ) -> list[list[int]]:
        backend = self._tokenizer()
        backend.encode_special_tokens = not parse_special
        return [backend.encode(text, add_special_tokens=add_special).ids for text in texts]

    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing more specific
            raise TargetError("tokenizers refuses tokenizer.json", found=error) from None

    def eog_ids(self) -> list[int]:
        document = json.loads((self.folder / "generation_config.json").read_text(encoding="utf-8"))
        ids: list[int] = document.get("eos_token_id", [])
        return ids
