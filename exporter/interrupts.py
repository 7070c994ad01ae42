"""Being asked to end: Ctrl-C, and SIGTERM as ``kill``, ``timeout``, containers and build servers send it.

Left to itself, SIGTERM ends Python on the spot, with what was staged on the disk and a runtime's process behind it. As
an exception like Ctrl-C's it ends whatever cleans up after that.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells say of a process that a signal has ended: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """In here SIGTERM raises :class:`Terminated` where Ctrl-C would raise ``KeyboardInterrupt``."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    with _handled({signal.SIGTERM: terminate}):
        yield


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """In here both come too late, and nothing happens."""
    with _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda number, frame: None)):
        yield


@contextlib.contextmanager
def _handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Signals reach the main thread alone, and only there may one say what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
