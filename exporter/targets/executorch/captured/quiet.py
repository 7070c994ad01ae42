"""Silence for libraries that write what they do to stderr: executorch, coremltools and the kernels below them."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

_STDERR = 2


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that is written to file descriptor 2 appears, no warning, no log; exceptions do what they always do."""
    before = logging.root.manager.disable
    kept = os.dup(_STDERR)
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), _STDERR)
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        os.dup2(kept, _STDERR)
        os.close(kept)
