"""Transformers.js from Python: what ``probe.mjs`` answers, in Node and in headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.harness import run

HERE = Path(__file__).parent
WEB = HERE.parents[1] / "examples" / "web"
INSTALL = "make web-packages"


@dataclass(frozen=True)
class Answer:
    """What one variant computed.

    Attributes:
        positions: How many positions had logits.
        logits: Of the last position.
        generated: The tokens that followed the prompt, the stop token included.
        seconds: How long these took, the prompt included.
        said: The reply to the messages, if there were some.
    """

    positions: int
    logits: list[float]
    generated: list[int]
    seconds: float
    said: str | None


@dataclass(frozen=True)
class Found:
    """Everything from one process.

    Attributes:
        answers: Transformers.js' ``dtype`` -> answer.
        tokens: Token ids of each text.
        heap: Bytes that WebAssembly's memory grew to; 0 in Node.
        foreign: Requests that did not go to the page's own server.
    """

    answers: dict[str, Answer]
    tokens: list[list[int]]
    heap: int = 0
    foreign: tuple[str, ...] = ()


def require_node() -> None:
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    for package in ("@huggingface/transformers", "playwright-core"):
        if not (WEB / "node_modules" / package).is_dir():
            pytest.skip(f"{package} is not installed: {INSTALL}")


def chromium() -> str:
    """The path of a Chromium."""
    require_node()
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return found


def export_onnx(model: Path, out: Path, *quants: str) -> Path:
    """``exporter export MODEL --target onnx``, without the check; ``out``."""
    chosen = [part for quant in quants for part in ("--quant", quant)]
    outcome = run("export", model, "--target", "onnx", *chosen, "--out", out, "--no-verify", "--jobs", 2)
    assert outcome.code == 0, outcome.stderr
    return out


def in_node(folder: Path, **request: Any) -> Found:
    """Ask about the repository in ``folder``."""
    require_node()
    return _asked("node.mjs", {"models": str(folder.parent), "model": folder.name, **request})


def in_browser(url: str, **request: Any) -> Found:
    """Ask about a repository that :func:`serving` serves."""
    (model,) = json.loads(
        subprocess.run(["node", "-e", _FETCH, url], capture_output=True, check=True, text=True).stdout
    )
    return _asked("browser.mjs", {"url": url, "model": model["id"], **request}, CHROMIUM=chromium())


_FETCH = "fetch(process.argv[1] + 'models.json').then((r) => r.text()).then(console.log)"


@contextlib.contextmanager
def serving(*folders: Path) -> Iterator[str]:
    """``examples/web/serve.mjs`` with some exported folders, on a free port; its URL."""
    require_node()
    command = ["node", str(WEB / "serve.mjs"), "--port", "0", *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(line for line in server.stdout if line.startswith("http")).strip()
        finally:
            server.terminate()


def _asked(script: str, request: dict[str, Any], **environment: str) -> Found:
    done = subprocess.run(
        ["node", str(HERE / script)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    answers = {dtype: Answer(**{"said": None, **answer}) for dtype, answer in found["answers"].items()}
    return Found(answers, found["tokens"], found.get("heap", 0), tuple(found.get("foreign", ())))
