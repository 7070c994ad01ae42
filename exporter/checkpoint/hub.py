"""Checkpoints on the Hugging Face Hub, downloaded into its cache by ``huggingface_hub``."""

from __future__ import annotations

import re
from pathlib import Path

from exporter.errors import CheckpointError

WANTED = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "README.md")
"""Files of a repository that an export needs: configuration, weights, tokenizer, model card."""

UNWANTED = ("*/*", "consolidated*")
"""Second copies of the weights: Meta's format under ``original/``, Mistral's beside the model."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether ``text`` has the form ``organization/name``."""
    return _HUB_ID.fullmatch(text) is not None


def download(hub_id: str, revision: str | None = None) -> Path:
    """The local folder of a repository, after downloading what the cache does not have.

    Args:
        hub_id: ``organization/name``.
        revision: Branch, tag or commit; the main branch if not given.

    Raises:
        CheckpointError: ``huggingface_hub`` is not installed, or the repository cannot be had.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise CheckpointError(
            f"{hub_id} is no local path, and downloading it needs the package huggingface_hub",
            expected="huggingface_hub",
            found="not installed",
            hint="pip install 'llama-exporter[hub]', or download the model and name its folder",
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:  # OSError: no network; ValueError: no such revision offline
        raise CheckpointError(
            f"{hub_id} is no local path and could not be downloaded from the Hugging Face Hub",
            expected="a folder, a .gguf file, or the id of a repository you can reach",
            found=next(iter(str(error).splitlines()), type(error).__name__),
            hint="check the spelling and the network; gated models need `hf auth login` and their licence accepted",
        ) from None
    return Path(folder)
