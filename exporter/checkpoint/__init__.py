"""Readers: Meta, Hugging Face and GGUF checkpoints become one configuration and lazily read canonical tensors."""

from exporter.checkpoint.base import Checkpoint, ModelInfo
from exporter.checkpoint.head import resolve_tied_head
from exporter.checkpoint.opening import open_checkpoint

__all__ = ["Checkpoint", "ModelInfo", "open_checkpoint", "resolve_tied_head"]
