"""Faults that the checks must find: a check that cannot fail is none."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

from scripts.android.sample import SAMPLE, VECTORS, Outcome, Workshop

MISSPELT = {
    "ExecuTorchText.kt": (("module.resetContext()", "module.resetContexts()"), (".echo(", ".echoes(")),
    "ExecuTorchLogits.kt": (("module.forward(", "module.forwards("), ("Tensor.fromBlob(", "Tensor.fromBlobs(")),
    "ChatActivity.kt": (("Resolver.openInputStream(", "Resolver.openInput("), ("R.menu.chat", "R.menu.chats")),
    "Models.kt": (("BuildConfig.EXECUTORCH_VERSION", "BuildConfig.EXECUTORCH"),),
}
"""File of the app -> calls and what is written instead: of ExecuTorch, of Android, of what is generated."""

CHANGED = {
    "budgets": {"plans": "dropped", "tokens_at_most": "tokens"},
    "bundles": {"documents": "message", "archives": "message", "runtimes": "message", "golden": "message"},
    "guard": {"prompts": "prompt", "verdicts": "categories"},
    "prompts": {"prompts": "prompt", "dates": "text"},
}
"""Vectors -> kind of case -> what is changed in one of them."""


def misspell(workshop: Workshop) -> Outcome:
    """Whether the compiler names every misspelt call."""
    folder = workshop.scratch / "misspelt"
    shutil.copytree(SAMPLE / "app/src/main/kotlin", folder)
    expected = set[str]()
    for name, changes in MISSPELT.items():
        (path,) = folder.rglob(name)
        text = path.read_text(encoding="utf-8")
        for right, wrong in changes:
            assert right in text, f"{name} has no {right}"
            text = text.replace(right, wrong)
            expected.add(re.findall(r"\w+", wrong)[-1])
        path.write_text(text, encoding="utf-8")
    said = workshop.compile_app(folder).text
    missed = expected.difference(re.findall(r"unresolved reference '(\w+)'", said))
    return Outcome(not missed, f"the compiler took {', '.join(sorted(missed))}\n{said}" if missed else "")


def change_vectors(workshop: Workshop) -> Outcome:
    """Whether a test fails for every kind of case of which one is changed, and no other test."""
    folder = workshop.scratch / "vectors"
    folder.mkdir()
    kinds = 0
    for name, fields in CHANGED.items():
        vectors = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
        for kind, field in fields.items():
            case = vectors[kind][0]
            case[field] = _other(case[field])
            kinds += 1
        (folder / f"{name}.json").write_text(json.dumps(vectors), encoding="utf-8")
    said = workshop.run_core_tests(folder).text
    failed = re.search(r"Failures: (\d+)$", said, re.MULTILINE)
    return Outcome(failed is not None and int(failed[1]) == kinds, f"{kinds} kinds of cases were changed\n{said}")


def _other(value: Any) -> Any:
    """Another value of the same type, or a text for ``None``."""
    if isinstance(value, int):
        return value + 1
    return [*value, {"code": "S1", "name": "?"}] if isinstance(value, list) else f"{value}?"


def misformat(workshop: Workshop) -> Outcome:
    """Whether the linter minds."""
    folder = workshop.scratch / "misformatted"
    folder.mkdir()
    (folder / "Misformatted.kt").write_text("class Misformatted{ val x=1 }\n", encoding="utf-8")
    said = workshop.lint("*.kt", folder=folder)
    return Outcome(not said.ok and "Misformatted.kt:1" in said.text, said.text)
