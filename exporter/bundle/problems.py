"""What can be wrong with a bundle, in the words that the sample apps use as well.

The texts are part of the format: ``tests/vectors/bundles.json`` holds Python, JavaScript, Kotlin and Swift to them.
"""

from __future__ import annotations

from exporter.errors import ExporterError, OutputError

TEXTS = {
    "missing": "bundle.json is missing",
    "archive": "the archive cannot be read",
    "invalid": "bundle.json is not valid: {where}",
    "schema": "bundle schema {found} is not supported, this reader knows schema {expected}",
    "file_missing": "{path} is missing from the bundle",
    "file_changed": "{path} is not the file that was bundled",
    "runtime": "the bundle needs {name} {expected}, here is {found}",
    "golden_missing": "the bundle has no golden answers",
    "golden_differs": "golden answer {number} differs: this runtime does not compute what was proved",
}
"""Code -> message."""


def problem(code: str, reason: object = None, **values: object) -> ExporterError:
    """The error of that code.

    Args:
        code: A key of ``TEXTS``.
        reason: What the system said; no part of the message, because other systems say it otherwise.
        values: What stands in the braces of the text.
    """
    hint = "export again with --bundle, or fetch the bundle again"
    return OutputError(TEXTS[code].format(**values), found=reason, hint=hint)
