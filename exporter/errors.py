"""The one exception family of the exporter.

Every message a user can meet is an :class:`ExporterError`: what went wrong, what was expected, what was
found, and a hint. The command line prints exactly these four lines and no traceback.
"""

from __future__ import annotations


class ExporterError(Exception):
    """A problem the user can act on.

    Args:
        message: One sentence that names the file, tensor or option at fault.
        expected: What would have been right.
        found: What was there instead.
        hint: The next thing to try.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.found is not None:
            lines.append(f"  found: {self.found}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class CheckpointError(ExporterError):
    """A checkpoint that cannot be read: missing shard, truncated file, wrong shape, NaN, not weights."""


class UnsupportedModelError(ExporterError):
    """A readable checkpoint of a model this exporter does not know: architecture, RoPE type, biases."""


class TokenizerError(ExporterError):
    """A tokenizer that is missing, malformed or does not belong to the weights."""


class GraphError(ExporterError):
    """A graph that violates the IR's rules, or a pass given a graph it cannot rewrite."""


class CalibrationError(ExporterError):
    """A calibration text that is too short or unreadable, a calibration of another model, activations that overflow."""


class AllocationError(ExporterError):
    """Types for single matrices that cannot be carried out, or a budget that no choice of them meets."""


class TargetError(ExporterError):
    """A target that cannot express what it was asked for."""


class RuntimeUnavailableError(ExporterError):
    """The runtime that would check an artifact is absent or of a version nobody checked."""


class OutputError(ExporterError):
    """A destination that cannot be written, or that already holds something."""


class GateError(ExporterError):
    """A build that changed more than its build file allows."""

    exit_code = 1


class ParityError(ExporterError):
    """An artifact whose verdict is FAIL."""

    exit_code = 3
