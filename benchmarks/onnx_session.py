"""Any decoder with a KV cache in ONNX Runtime, fed as Transformers.js feeds it: plain tensors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from exporter.config import ModelConfig

THREADS = 2
Cache = dict[str, npt.NDArray[Any]]
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Session:
    """A model file, whoever made it."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = {node.name: node.type for node in self._session.get_inputs()}
        self._present = [node.name.replace("present", "past_key_values") for node in self._session.get_outputs()[1:]]
        empty = (1, config.n_kv_heads, 0, config.head_dim)
        self.empty: Cache = {name: np.zeros(empty, _TYPES[self._inputs[name]]) for name in self._present}

    def step(self, ids: list[int], cache: Cache, keep: int) -> tuple[npt.NDArray[np.float32], Cache]:
        """Logits ``[kept, vocab_size]`` and the extended cache.

        Args:
            ids: The new tokens.
            cache: Of the tokens before; :attr:`empty` at first.
            keep: Positions whose logits are wanted, from the end; 0 for all. Not every graph can leave any out.
        """
        past = cache[self._present[0]].shape[2]
        feed = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, past + len(ids)), np.int64),
            "position_ids": np.arange(past, past + len(ids))[None],
            "num_logits_to_keep": np.array(keep),
        }
        known = {name: value for name, value in feed.items() if name in self._inputs}
        logits, *present = self._session.run(None, known | cache)
        return logits[0], dict(zip(self._present, present, strict=True))

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits at every position, in one pass."""
        return self.step(ids, self.empty, keep=0)[0]
