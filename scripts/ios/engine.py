"""The app's engine for llama.cpp, run on Linux: on a bundle of the exporter's, with a prebuilt llama.cpp from npm."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from scripts.checking import Outcome, outcome
from scripts.fetching import Missing
from scripts.ios.sample import ROOT, Workshop

PROGRAM = ROOT / "tests" / "ios" / "answer" / "main.swift"

CONTEXT = 256
"""Positions of the tiny model."""


def build(workshop: Workshop) -> Outcome:
    """Export a tiny model as a bundle, and compile a program around the engine.

    Raises:
        Missing: The exporter's environment, or llama.cpp as a library, is not here.
    """
    libraries = _libraries(workshop)
    exported = _export(workshop)
    if not exported.ok:
        return exported
    shutil.copy(PROGRAM, workshop.scratch / "main.swift")
    # Its names carry its version, so that -lllama would not find it.
    linked = [f"-l:{path.name}" for name in ("libllama", "libggml") for path in libraries.glob(f"{name}.v*.so")]
    return workshop.link("answer", ("main.swift", "app/Engines/LlamaEngine.swift"), libraries.name, linked)


def answer(workshop: Workshop) -> Outcome:
    """Whether the golden answers are the same, and the answer to the first as text."""
    from exporter.targets.gguf.runtime import LlamaCpp

    document = _document(workshop, "bundle")
    golden = document["golden"][0]
    done = _ask(workshop, "bundle")
    (text,) = LlamaCpp(workshop.scratch / "bundle" / document["artifact"][0]).detokenize([golden["answer_ids"]])
    expected = f"read {len(golden['prompt_ids'])}, wrote {len(golden['answer_ids'])}: {text}\n"
    passed = "passed files\npassed runtime\npassed goldenAnswers\n"
    return Outcome(done.ok and done.text == passed + expected, f"{done.text}\nexpected:\n{expected}")


def change_answer(workshop: Workshop) -> Outcome:
    """Whether another golden answer is noticed."""
    shutil.copytree(workshop.scratch / "bundle", workshop.scratch / "changed-bundle")
    document = _document(workshop, "changed-bundle")
    document["golden"][1]["answer_ids"][2] += 1
    (workshop.scratch / "changed-bundle" / "bundle.json").write_text(json.dumps(document), encoding="utf-8")
    done = _ask(workshop, "changed-bundle")
    return Outcome(not done.ok and "golden answer 2 differs" in done.text, done.text)


def _ask(workshop: Workshop, bundle: str) -> Outcome:
    if not (workshop.scratch / "answer").is_file():
        raise Missing("there is no engine to run")
    golden = _document(workshop, bundle)["golden"][0]
    seen = workshop.swift.seen(workshop.scratch)
    count = str(len(golden["answer_ids"]))
    return workshop.swift.run(
        workshop.scratch, "./answer", f"{seen}/{bundle}", f"{seen}/libraries", golden["prompt"], count
    )


def _document(workshop: Workshop, bundle: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workshop.scratch / bundle / "bundle.json").read_text(encoding="utf-8"))
    return found


def _libraries(workshop: Workshop) -> Path:
    from tests.oracles import llama_quantize

    reason = llama_quantize.why_unavailable()
    if reason is not None:
        raise Missing(reason.replace("llama-quantize", "llama.cpp"))
    return shutil.copytree(llama_quantize.LIBRARIES, workshop.scratch / "libraries")


def _export(workshop: Workshop) -> Outcome:
    try:
        from tests.fixtures.models import TinySpec, write_huggingface
    except ImportError as error:
        raise Missing(f"the exporter's environment is not here (make install): {error}") from None
    model = write_huggingface(workshop.scratch / "model", TinySpec(head_dim=16, max_seq_len=CONTEXT))
    out = workshop.scratch / "exported"
    target = ("--target", "gguf", "--quant", "f32", "--bundle-dir", "--out", str(out))
    done = outcome([sys.executable, "cli.py", "export", str(model), *target], ROOT)
    if done.ok:
        (out / "bundles" / "gguf-f32").rename(workshop.scratch / "bundle")
    return done
