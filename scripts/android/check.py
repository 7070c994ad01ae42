"""Check the Android sample without an Android SDK: ``python -m scripts.android.check``, or ``make android-check``.

Exit code 0 if all is well or something that the check needs is missing, which is said; 1 if a check fails. Where
``CI=true``, nothing may be missing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.android import controls, tools
from scripts.android.sample import CATALOG, Workshop
from scripts.checking import Outcome, missing_code, run_all
from scripts.fetching import Missing


def _compile_app(workshop: Workshop) -> Outcome:
    workshop.generate_build_config()
    return workshop.compile_app()


CHECKS: dict[str, Callable[[Workshop], Outcome]] = {
    "core compiles without a warning": Workshop.compile_core,
    "core's tests compile": Workshop.compile_core_tests,
    "core's tests pass, on the shared vectors": Workshop.run_core_tests,
    "a changed vector of each kind makes its test fail": controls.change_vectors,
    "manifest and resources link with Android's": Workshop.link_resources,
    "the app compiles with ExecuTorch's classes": _compile_app,
    "misspelt calls do not": controls.misspell,
    "ktlint is content": lambda workshop: workshop.lint("**/*.kt", "**/*.kts"),
    "with other code it is not": controls.misformat,
}
"""What is checked -> how; each needs those before it."""


def main() -> int:
    try:
        found = tools.find()
    except Missing as missing:
        print(f"skipped: {missing}; the Android sample was not checked", file=sys.stderr)
        return missing_code()
    print(f"Kotlin {CATALOG['kotlin']}, compiled by kotlinc {tools.KOTLIN.version}")
    with tempfile.TemporaryDirectory(prefix="android-check-") as scratch:
        return run_all(CHECKS, Workshop(found, Path(scratch)))


if __name__ == "__main__":
    sys.exit(main())
