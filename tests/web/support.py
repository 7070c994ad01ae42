"""How these tests talk to the page: its modules in Node.js, its server as a process, the whole of it in Chromium."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "examples" / "web"
DRIVER = Path(__file__).with_name("drive_page.mjs")

Step = dict[str, Any]
SEND: Step = {"do": "click", "button": "Send"}
STOP: Step = {"do": "click", "button": "Stop"}
REST: Step = {"do": "rest"}
READ: Step = {"do": "read"}
TEXT: Step = {"do": "text"}
"""Waits for the first words of an answer."""


def write(text: str) -> Step:
    return {"do": "write", "text": text}


def press(key: str) -> Step:
    return {"do": "press", "key": key}


def choose(label: str, option: str) -> Step:
    return {"do": "choose", "label": label, "option": option}


def options(label: str) -> Step:
    return {"do": "options", "label": label}


def say(text: str) -> list[Step]:
    """Write, send, and wait until the page is at rest again."""
    return [write(text), SEND, REST]


def evaluate(module: str, expression: str, *arguments: object) -> Any:
    """Value of a JavaScript expression in which the exports of a module of the page, and ``arguments``, are known.

    Raises:
        AssertionError: The expression threw.
    """
    script = (
        f"import * as module from {json.dumps((PAGE / module).as_uri())};\n"
        f"const {{ {', '.join(_exports(module))} }} = module;\n"
        f"const args = {json.dumps(arguments)};\n"
        f"console.log(JSON.stringify((await ({expression})) ?? null));"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _exports(module: str) -> list[str]:
    words = [line.removeprefix("export ").removeprefix("async ").split() for line in _export_lines(module)]
    return [name.split("(")[0] for _, name, *_ in words]


def _export_lines(module: str) -> list[str]:
    return [line for line in (PAGE / module).read_text().splitlines() if line.startswith("export ")]


@dataclass(frozen=True)
class Visit:
    """What a browser saw: one entry for each step that looks, every request, every error of the console."""

    seen: list[Any]
    requests: list[str]
    errors: list[str]


def visit(chromium: str, url: str, *steps: Step, **settings: Any) -> Visit:
    """Open the page in a fresh browser and take the steps of ``drive_page.mjs``.

    Raises:
        AssertionError: A step could not be taken.
    """
    scenario = {"url": url, "steps": steps, **settings}
    done = subprocess.run(
        ["node", str(DRIVER)],
        input=json.dumps(scenario),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CHROMIUM": chromium},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return Visit(**json.loads(done.stdout))
