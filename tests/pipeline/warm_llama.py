"""The exporter's own llama.cpp worker, forked from a process that has done its imports.

A worker lives for one request and spends nine tenths of it on starting Python; these tests ask hundreds. Each request
still meets a fresh process and the real library. ``python -m tests.pipeline.warm_llama`` is the parent of them all:
a JSON request per line on stdin, its answer on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from exporter.targets.gguf import llama_worker, runtime
from tests.pipeline.harness import ROOT


class WarmLlama:
    """Serves the requests of :class:`exporter.targets.gguf.runtime.LlamaCpp`."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.warm_llama"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=runtime._environment(),
        )

    def ask(self, model: runtime.LlamaCpp, request: str, **arguments: Any) -> dict[str, Any]:
        """In place of ``LlamaCpp._ask``."""
        assert self._parent.stdin and self._parent.stdout
        print(
            json.dumps({"request": request, "model": str(model.path), **arguments}), file=self._parent.stdin, flush=True
        )
        answer = json.loads(self._parent.stdout.readline())
        if "error" in answer:
            raise model._refusal(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        self._parent.communicate()


def main() -> None:
    llama_worker.llama_cpp.load()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.write(1, json.dumps(llama_worker.answer(json.loads(line))).encode() + b"\n")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            died = {"kind": "TargetError", "message": f"llama.cpp died with status {status}", "log": []}
            print(json.dumps({"error": {**died, "expected": None, "found": None, "hint": None}}), flush=True)


if __name__ == "__main__":
    main()
