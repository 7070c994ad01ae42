"""Faults that the checks must find: a check that cannot fail is none."""

from __future__ import annotations

import re

from scripts import faults
from scripts.checking import Outcome
from scripts.faults import Changes, rewrite
from scripts.ios.sample import Workshop

MISSPELT_IN_CORE: Changes = {
    "BundleSlot.swift": (("files.moveItem(", "files.moveItems("), ("try checkFiles(", "try checkFile(")),
    "SelfTest.swift": (("engine.greedy(", "engine.greedily("),),
    "ByteStream.swift": (("stream.read(", "stream.reads("),),
}
"""Of Foundation, and of core itself."""

MISSPELT_IN_APP: Changes = {
    "ExecuTorchEngine.swift": (("runner.reset()", "runner.resets()"), ("module.forward(", "module.forwards(")),
    "LlamaEngine.swift": (("llama_memory_clear(", "llama_memory_clean("), (".n_gpu_layers", ".n_gpu_layer")),
    "ChatModel.swift": (("answering?.stop()", "answering?.stops()"),),
    "Models.swift": (("slots[role]!.replace(", "slots[role]!.replaces("),),
}
"""Of ExecuTorch, of llama.cpp, and of core."""

SYNTAX_ERRORS: Changes = {
    "ChatScreen.swift": (("var body: some View {", "var body: some View {{"),),
    "GuardedChatApp.swift": (("WindowGroup {", "WindowGroup {("),),
    "LlamaEngine.swift": (("deinit {", "deinit {]"),),
}


def change_vectors(workshop: Workshop) -> Outcome:
    """Whether a test fails for every kind of case of which one is changed, and no other test."""
    kinds = faults.change_vectors(workshop.scratch / "changed")
    said = workshop.run_core_tests("changed").text
    failed = set(re.findall(r"^Test Case '(.+)' failed", said, re.MULTILINE))
    return Outcome(len(failed) == kinds, f"{kinds} kinds of cases were changed, these failed: {sorted(failed)}\n{said}")


def misspell_core(workshop: Workshop) -> Outcome:
    """Whether the compiler names every misspelt call."""
    rewrite(workshop.copy("core", "misspelt-core"), MISSPELT_IN_CORE)
    return _named(MISSPELT_IN_CORE, workshop.check_core("misspelt-core"))


def misspell_app(workshop: Workshop) -> Outcome:
    """The same for the app's."""
    rewrite(workshop.copy("app", "misspelt-app"), MISSPELT_IN_APP)
    return _named(MISSPELT_IN_APP, workshop.check_app("misspelt-app"))


def break_syntax(workshop: Workshop) -> Outcome:
    """Whether the parser minds every file with a syntax error."""
    rewrite(workshop.copy("app", "broken-app"), SYNTAX_ERRORS)
    done = workshop.parse("broken-app")
    missed = [name for name in SYNTAX_ERRORS if not re.search(rf"{name}:\d+:\d+: error:", done.text)]
    return Outcome(not done.ok and not missed, f"the parser took {missed}\n{done.text}")


def misformat(workshop: Workshop) -> Outcome:
    """Whether the linter minds."""
    (workshop.scratch / "Misformatted.swift").write_text("struct Misformatted{ let x=1 }\n", encoding="utf-8")
    done = workshop.lint("Misformatted.swift")
    return Outcome(not done.ok and "Misformatted.swift:1" in done.text, done.text)


def _named(changes: Changes, done: Outcome) -> Outcome:
    """Whether every call that was written instead is in an error of the compiler's."""
    missed = [name for name in sorted(faults.last_words(changes)) if not re.search(rf"error: .*\b{name}\b", done.text)]
    return Outcome(not done.ok and not missed, f"the compiler took {missed}\n{done.text}")
