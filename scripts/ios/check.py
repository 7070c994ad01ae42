"""Check the iOS sample without a Mac: ``python -m scripts.ios.check``, or ``make ios-check``.

Exit code 0 if all is well or something that the check needs is missing, which is said; 1 if a check fails. Where
``CI=true``, nothing may be missing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.checking import Outcome, missing_code, run_all
from scripts.fetching import Missing
from scripts.ios import controls, engine, toolchain
from scripts.ios.sample import Workshop

SWIFT = ("core/Sources", "core/Tests", "app", "declarations")
"""Folders of the workshop with code of ours."""

CHECKS: dict[str, Callable[[Workshop], Outcome]] = {
    "core compiles without a warning": Workshop.build_core,
    "core's tests compile": Workshop.build_core_tests,
    "core's tests pass, on the shared vectors": Workshop.run_core_tests,
    "a changed vector of each kind makes its test fail": controls.change_vectors,
    "misspelt calls in core do not compile": controls.misspell_core,
    "every file of the app parses": Workshop.parse,
    "files with a syntax error do not": controls.break_syntax,
    "llama.cpp's header and ExecuTorch's declarations compile": Workshop.declare,
    "the app but for its screens compiles with them": Workshop.check_app,
    "misspelt calls do not": controls.misspell_app,
    "the engine for llama.cpp links, and a model is exported for it": engine.build,
    "its answers are the golden ones": engine.answer,
    "others are not": engine.change_answer,
    "swift-format is content": lambda workshop: workshop.lint(*SWIFT),
    "with other code it is not": controls.misformat,
}
"""What is checked -> how; each needs those before it."""


def main() -> int:
    try:
        swift = toolchain.find()
    except Missing as missing:
        print(f"skipped: no Swift: {missing}; the iOS sample was not checked", file=sys.stderr)
        return missing_code()
    with tempfile.TemporaryDirectory(prefix="ios-check-") as scratch:
        workshop = Workshop(swift, Path(scratch))
        print(workshop.version, flush=True)
        return run_all(CHECKS, workshop)


if __name__ == "__main__":
    sys.exit(main())
