"""Faults that the checks must find: a check that cannot fail is none."""

from __future__ import annotations

import re
import shutil

from scripts import faults
from scripts.android.sample import SAMPLE, Workshop
from scripts.checking import Outcome

MISSPELT: faults.Changes = {
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
    faults.rewrite(folder, MISSPELT)
    said = workshop.compile_app(folder).text
    missed = faults.last_words(MISSPELT).difference(re.findall(r"unresolved reference '(\w+)'", said))
    return Outcome(not missed, f"the compiler took {', '.join(sorted(missed))}\n{said}" if missed else "")


def change_vectors(workshop: Workshop) -> Outcome:
    """Whether a test fails for every kind of case of which one is changed, and no other test."""
    folder = workshop.scratch / "vectors"
    kinds = faults.change_vectors(folder)
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
