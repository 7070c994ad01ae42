"""Open a checkpoint without being told its format: it is recognised by what is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint.base import Checkpoint
from exporter.checkpoint.hub import download, is_hub_id
from exporter.checkpoint.info import SPLIT_SUFFIX
from exporter.checkpoint.matching import listing
from exporter.config import RopeScaling
from exporter.errors import CheckpointError

Reader = Callable[[Path, str], Checkpoint]


def _open_huggingface(folder: Path, name: str) -> Checkpoint:
    from exporter.checkpoint.huggingface import open_huggingface

    return open_huggingface(folder, name)


def _open_meta(folder: Path, name: str) -> Checkpoint:
    from exporter.checkpoint.meta import open_meta

    return open_meta(folder, name)


def _open_gguf(path: Path, name: str | None = None) -> Checkpoint:
    from exporter.checkpoint.gguf import open_gguf

    return open_gguf(path, name)


@dataclass(frozen=True)
class Format:
    """A folder format: it is this one if something matches each pattern."""

    patterns: tuple[str, ...]
    open: Reader

    def matches(self, folder: Path) -> bool:
        return all(any(folder.glob(pattern)) for pattern in self.patterns)


# Hugging Face first: a folder with both formats says more in config.json than in params.json.
FORMATS = (
    Format(("config.json", "*.safetensors"), _open_huggingface),
    Format(("params.json", "consolidated.*.pth"), _open_meta),
    Format(("*.gguf",), lambda folder, name: _open_gguf(_only_gguf(folder))),
)


def open_checkpoint(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    rope_scale_factor: float | None = None,
    max_seq_len: int | None = None,
) -> Checkpoint:
    """Open a checkpoint in any known format. No weight is read: a 70B model opens as fast as a small one.

    Args:
        path_or_hub_id: A folder in Meta's or Hugging Face's format, a ``.gguf`` file (of a split one the first part),
            a folder with one, or a hub id ``organization/name``.
        revision: Branch, tag or commit of a hub id.
        rope_scale_factor: Replaces the factor of a model with RoPE scaling.
        max_seq_len: Replaces the context length, in tokens.

    Raises:
        CheckpointError: Nothing there, not recognised, damaged, or an option that does not apply.
        UnsupportedModelError: A readable checkpoint of a model that the graph cannot express.
    """
    try:
        checkpoint = _open(path_or_hub_id, revision)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path_or_hub_id} cannot be read",
            expected="a readable file",
            found=error.strerror or error,
            hint="check the permissions and the disk",
        ) from None
    return _override(checkpoint, rope_scale_factor, max_seq_len)


def _open(path_or_hub_id: str | Path, revision: str | None) -> Checkpoint:
    path = Path(path_or_hub_id).expanduser()
    if not path.exists() and is_hub_id(str(path_or_hub_id)):
        return _open_hub(str(path_or_hub_id), revision)
    if revision is not None:
        raise CheckpointError(
            "a revision belongs to a hub id", expected="organization/name", found=path_or_hub_id, hint="drop --revision"
        )
    if path.is_dir():
        return _open_folder(path, path.resolve().name)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return _open_gguf(path)
    raise CheckpointError(
        f"{path} is not a checkpoint",
        expected="a folder, a .gguf file, or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct",
        found="another kind of file" if path.exists() else "nothing at this path",
        hint="name the folder that holds the weights" if path.exists() else "check the spelling",
    )


def _open_hub(hub_id: str, revision: str | None) -> Checkpoint:
    organization, name = hub_id.split("/")
    checkpoint = _open_folder(download(hub_id, revision), name)
    info = checkpoint.info
    return dataclasses.replace(
        checkpoint,
        info=dataclasses.replace(
            info, organization=info.organization or organization, base_model=info.base_model or hub_id
        ),
    )


def _open_folder(folder: Path, name: str) -> Checkpoint:
    for candidate in FORMATS:
        if candidate.matches(folder):
            return candidate.open(folder, name)
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    pickled = any(entry.endswith(".bin") for entry in names)
    raise CheckpointError(
        f"{folder} holds no checkpoint of a known format",
        expected=", or ".join(" with ".join(candidate.patterns) for candidate in FORMATS),
        found=listing(names) or "an empty folder",
        hint="save the model with safe_serialization=True: .bin weights are not read"
        if pickled
        else "name the folder that holds the weights themselves",
    )


def _only_gguf(folder: Path) -> Path:
    """The one model in the folder; numbered parts count as one."""
    files = sorted(folder.glob("*.gguf"))
    first = [f for f in files if (part := SPLIT_SUFFIX.search(f.stem)) is None or int(part[1]) == 1] or files[:1]
    if len(first) != 1:
        raise CheckpointError(
            f"{folder} holds several GGUF models",
            expected="one",
            found=listing(file.name for file in first),
            hint="name the file instead of the folder",
        )
    return first[0]


def _override(checkpoint: Checkpoint, rope_scale_factor: float | None, max_seq_len: int | None) -> Checkpoint:
    config, notes = checkpoint.config, list(checkpoint.notes)
    if rope_scale_factor is not None:
        scaling = config.rope_scaling
        if scaling is None or scaling.kind == "factors" or rope_scale_factor <= 0:
            raise CheckpointError(
                "the RoPE scale factor cannot be replaced",
                expected="a positive factor, and a model with llama3 or linear RoPE scaling",
                found=f"factor {rope_scale_factor:g}, {_described(scaling)}",
                hint="drop --rope-scale-factor",
            )
        config = config.replace(rope_scaling=dataclasses.replace(scaling, factor=float(rope_scale_factor)))
        notes.append(f"RoPE factor {rope_scale_factor:g} as asked for, instead of {scaling.factor:g}")
    if max_seq_len is not None:
        if max_seq_len <= 0:
            raise CheckpointError("the context length must be positive", expected="> 0", found=max_seq_len)
        beyond = ", more than the model was made for" if max_seq_len > config.max_seq_len else ""
        notes.append(f"context length {max_seq_len} as asked for, instead of {config.max_seq_len}{beyond}")
        config = config.replace(max_seq_len=max_seq_len)
    return dataclasses.replace(checkpoint, config=config, notes=tuple(notes))


def _described(scaling: RopeScaling | None) -> str:
    return "no RoPE scaling" if scaling is None else f"{scaling.kind} RoPE scaling"
