"""Typed access to the hyperparameters of a file, with one clear error per way they can be wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporter.config import ModelConfig, RopeScaling
from exporter.errors import CheckpointError


class Fields:
    """A mapping of untrusted values whose accessors check the type.

    Args:
        values: Parsed JSON object or GGUF metadata.
        source: The file the values come from, for messages.
    """

    def __init__(self, values: Mapping[str, Any], source: Path) -> None:
        self.values = values
        self.source = source

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; without ``default`` it is required (``null`` counts as absent)."""
        return int(self._get(key, default, (int,), "a whole number"))

    def number(self, key: str, default: float | None = None) -> float:
        """A number; without ``default`` it is required."""
        return float(self._get(key, default, (int, float), "a number"))

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without ``default`` it is required."""
        return str(self._get(key, default, (str,), "a string"))

    def integers(self, key: str) -> tuple[int, ...] | None:
        """A list of whole numbers, ``None`` where it is absent."""
        values = self._get(key, [], (list,), "a list of whole numbers")
        if any(type(value) is not int for value in values):
            raise CheckpointError(
                f"{self.source}: {key} has the wrong type", expected="a list of whole numbers", found=repr(values)[:200]
            )
        return tuple(values) or None

    def table(self, key: str) -> Fields:
        """A nested object; empty where it is absent."""
        return Fields(self._get(key, {}, (dict,), "an object"), self.source)

    def _get(self, key: str, default: Any, types: tuple[type, ...], expected: str) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(
                f"{self.source}: {key} is missing",
                expected=f"{key}: {expected}",
                found=", ".join(sorted(k for k in self.values if not k.startswith("tokenizer."))) or "nothing",
            )
        if not isinstance(value, types) or isinstance(value, bool):
            raise CheckpointError(f"{self.source}: {key} has the wrong type", expected=expected, found=repr(value))
        return value


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: The file is not JSON, or JSON of something else than an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not JSON", expected="a JSON object", found=str(error), hint="download the file again"
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object", expected="{…}", found=type(data).__name__)
    return data


def checked(config: ModelConfig, source: Path) -> ModelConfig:
    """``config`` itself, once its numbers make sense together.

    Raises:
        CheckpointError: A size that is not positive, heads that do not divide, an odd head width.
    """
    sizes = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size", "max_seq_len")
    rules = [
        *((getattr(config, size) > 0, f"{size} > 0", getattr(config, size)) for size in sizes),
        (config.norm_eps > 0, "norm_eps > 0", config.norm_eps),
        (config.rope_theta > 0, "rope_theta > 0", config.rope_theta),
        (config.n_kv_heads > 0 and config.n_heads % config.n_kv_heads == 0, "n_heads divisible by n_kv_heads",
         f"{config.n_heads} and {config.n_kv_heads}"),
        (config.head_dim % 2 == 0, "an even head_dim", config.head_dim),
        (_are_kept(config.kept_tokens, config.vocab_size), f"kept_tokens ascending and below {config.vocab_size}",
         config.kept_tokens),
        (config.kept_tokens is None or not config.tied_embeddings, "an untied head where tokens are left out", "tied"),
        *_scaling_rules(config.rope_scaling, config.head_dim),
    ]  # fmt: skip
    for holds, expected, found in rules:
        if not holds:
            raise CheckpointError(f"{source} describes an impossible model", expected=expected, found=found)
    return config


def _are_kept(tokens: tuple[int, ...] | None, vocab_size: int) -> bool:
    if tokens is None:
        return True
    return tokens[0] >= 0 and tokens[-1] < vocab_size and all(a < b for a, b in itertools.pairwise(tokens))


def _scaling_rules(scaling: RopeScaling | None, head_dim: int) -> list[tuple[bool, str, object]]:
    if scaling is None:
        return []
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    n_factors = len(scaling.factors)
    return [
        (scaling.factor > 0, "a RoPE factor > 0", scaling.factor),
        (scaling.kind != "llama3" or 0 < low < high, "0 < low_freq_factor < high_freq_factor", f"{low} and {high}"),
        (scaling.kind != "llama3" or scaling.original_max_seq_len > 0, "an original context length > 0",
         scaling.original_max_seq_len),
        (scaling.kind != "factors" or n_factors == head_dim // 2, f"{head_dim // 2} RoPE factors", n_factors),
        (all(f > 0 for f in scaling.factors), "RoPE factors > 0", min(scaling.factors, default=None)),
    ]  # fmt: skip
