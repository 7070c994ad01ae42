"""Faults that the checks must find: a check that cannot fail is none."""

from __future__ import annotations

import re
import shutil

from scripts import changed_vectors
from scripts.android.sample import SAMPLE, Workshop
from scripts.checking import Outcome

MISSPELT = {
    "ExecuTorchText.kt": (("module.resetContext()", "module.resetContexts()"), (".echo(", ".echoes(")),
    "ExecuTorchLogits.kt": (("module.forward(", "module.forwards("), ("Tensor.fromBlob(", "Tensor.fromBlobs(")),
    "ChatActivity.kt": (("Resolver.openInputStream(", "Resolver.openInput("), ("R.menu.chat", "R.menu.chats")),
    "Models.kt": (("BuildConfig.EXECUTORCH_VERSION", "BuildConfig.EXECUTORCH"),),
}
"""File of the app -> calls and what is written instead: of ExecuTorch, of Android, of what is generated."""


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
    kinds = changed_vectors.write(folder)
    said = workshop.run_core_tests(folder).text
    failed = re.search(r"Failures: (\d+)$", said, re.MULTILINE)
    return Outcome(failed is not None and int(failed[1]) == kinds, f"{kinds} kinds of cases were changed\n{said}")


def misformat(workshop: Workshop) -> Outcome:
    """Whether the linter minds."""
    folder = workshop.scratch / "misformatted"
    folder.mkdir()
    (folder / "Misformatted.kt").write_text("class Misformatted{ val x=1 }\n", encoding="utf-8")
    said = workshop.lint("*.kt", folder=folder)
    return Outcome(not said.ok and "Misformatted.kt:1" in said.text, said.text)
