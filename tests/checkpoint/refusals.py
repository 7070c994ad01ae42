"""What every refusal owes its reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from exporter.errors import ExporterError


def refusal(kind: type[ExporterError], call: Callable[[], Any]) -> ExporterError:
    """The error that ``call`` raises: of exactly this kind, one line of message, with expected and found."""
    with pytest.raises(ExporterError) as caught:
        call()
    error = caught.value
    assert type(error) is kind, error
    assert "\n" not in error.message
    assert error.expected and error.found, error
    assert error.__suppress_context__ or error.__context__ is None, "a traceback of somebody else would be printed"
    return error
