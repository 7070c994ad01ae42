"""``bundles.json``: documents, archives, runtimes and golden answers, and what a reader says of each."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.bundle import reading, validation
from exporter.bundle.document import SCHEMA
from exporter.bundle.problems import TEXTS
from exporter.errors import ExporterError
from tests.vectors import archives

FILES = {"executorch/model.pte": b"program", "executorch/tokenizer.json": b"{}"}


def document(files: dict[str, bytes] = FILES) -> dict[str, Any]:
    """A valid one."""
    return {
        "schema": SCHEMA,
        "name": "tiny",
        "target": "executorch",
        "quant": "int4",
        "artifact": [next(iter(files))],
        "files": [
            {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in files.items()
        ],
        "runtime": {"versions": {"executorch": "1.4.0"}, "packages": {"maven": "org.pytorch:executorch-android:1.4.0"}},
        "requires": {},
        "context_length": 256,
        "vocab_size": 320,
        "expected_ram_bytes": 5_000_000_000,
        "bos_id": None,
        "stop_ids": [2, 7],
        "stop_tokens": ["</s>", "<|eot_id|>"],
        "chat_template": None,
        "prompt_format": {
            "begin": "<s>", "begin_system": "<s>[system] ", "system_user": "\n", "user_assistant": "\n> ",
            "assistant_user": "\n", "user_end": "\n> ", "trims": True, "date_format": None,
        },
        "license": "apache-2.0",
        "notice": "",
        "golden": [{"prompt": "<s>Hi\n> ", "prompt_ids": [1, 5, 6], "answer_ids": [9, 8]}],
    }  # fmt: skip


WRONG: dict[str, dict[str, Any]] = {
    "an older schema": {"schema": 0},
    "a newer schema": {"schema": 2},
    "a schema that is text": {"schema": "1"},
    "a schema that is true": {"schema": True},
    "no schema": {"schema": None},
    "a number for a name": {"name": 1},
    "null for a target": {"target": None},
    "an object for files": {"files": {}},
    "text for a context length": {"context_length": "256"},
    "true for a context length": {"context_length": True},
    "a fraction for a vocabulary": {"vocab_size": 320.5},
    "text for a bos": {"bos_id": "1"},
    "a list for a prompt format": {"prompt_format": []},
    "a runtime without versions": {"runtime": {"packages": {}}},
    "a version that is a number": {"runtime": {"versions": {"executorch": 1.4}, "packages": {}}},
    "a prompt format without its end": {"prompt_format": {"begin": "", "begin_system": "", "system_user": ""}},
    "a prompt format that trims a little": {"prompt_format": document()["prompt_format"] | {"trims": "yes"}},
    "a file that is text": {"files": ["model.pte"]},
    "a file without a hash": {"files": [{"path": "model.pte", "bytes": 1}]},
    "a hash that is too short": {"files": [{"path": "model.pte", "bytes": 1, "sha256": "00"}]},
    "a hash in capitals": {"files": [{"path": "model.pte", "bytes": 1, "sha256": "A" * 64}]},
    "a size that is text": {"files": [{"path": "model.pte", "bytes": "1", "sha256": "0" * 64}]},
    "a path out of the bundle": {"files": [{"path": "../model.pte", "bytes": 1, "sha256": "0" * 64}]},
    "a path that leaves and comes back": {"files": [{"path": "a/../model.pte", "bytes": 1, "sha256": "0" * 64}]},
    "a path from the root": {"files": [{"path": "/model.pte", "bytes": 1, "sha256": "0" * 64}]},
    "an empty path": {"files": [{"path": "", "bytes": 1, "sha256": "0" * 64}]},
    "no files": {"files": []},
    "an artifact that is text": {"artifact": "executorch/model.pte"},
    "an artifact of numbers": {"artifact": [1]},
    "an artifact without files": {"artifact": []},
    "an artifact that is no file": {"artifact": ["executorch/model.pte", "executorch/model.ptd"]},
    "a stop id that is text": {"stop_ids": [2, "7"]},
    "a stop token that is a number": {"stop_tokens": [2]},
    "a golden answer that is text": {"golden": ["Paris"]},
    "a golden answer without its prompt": {"golden": [{"prompt": "", "answer_ids": []}]},
    "a golden answer of words": {"golden": [{"prompt": "", "prompt_ids": [1], "answer_ids": ["Paris"]}]},
    "no golden answer": {"golden": []},
    "two things": {"name": 1, "quant": 2},
}
"""What is special -> fields of a valid document that are replaced."""

RIGHT: dict[str, dict[str, Any]] = {
    "as it should be": {},
    "a field that nobody knows": {"colour": "blue"},
    "a base model": {"bos_id": 1, "prompt_format": None},
    "an artifact of two files": {"artifact": list(FILES)},
    "a date in the prompt": {"prompt_format": document()["prompt_format"] | {"date_format": "%d %b %Y"}},
    "a path with dots in it": {
        "artifact": ["..a/b..c.pte"], "files": [{"path": "..a/b..c.pte", "bytes": 1, "sha256": "0" * 64}],
    },
    "letters of other scripts": {"name": "東京 🙂 \u0000 \" \\ /"},
}  # fmt: skip

NO_DOCUMENT = {
    "nothing": "",
    "an opening brace": "{",
    "a list": "[]",
    "null": "null",
    "text": '"bundle"',
    "single quotes": "{'schema': 1}",
    "a comma too many": '{"schema": 1,}',
    "a comment": "{} // really",
    "two documents": "{}{}",
    "a line break in text": '{"schema": "\n"}',
    "a word": "{schema: 1}",
    "a number with a leading zero": '{"schema": 01}',
    "an escape that is none": '{"schema": "\\x"}',
    "half an escape": '{"schema": "\\u12"}',
    "a byte order mark": "\ufeff{}",
    "an empty object": "{}",
}

RUNTIMES: dict[str, tuple[dict[str, str], dict[str, str | None]]] = {
    "the same": ({"executorch": "1.4.0"}, {"executorch": "1.4.0"}),
    "another": ({"executorch": "1.4.0"}, {"executorch": "1.3.0"}),
    "none": ({"executorch": "1.4.0"}, {}),
    "one of two": ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}),
    "more than is needed": ({"a": "1"}, {"a": "1", "b": "3"}),
}

ANSWERS = {
    "the same": ([[9, 8], [7]], [[9, 8], [7]]),
    "the second differs": ([[9, 8], [7]], [[9, 8], [6]]),
    "an answer that ends early": ([[9, 8]], [[9]]),
    "an empty answer": ([[]], [[]]),
}
"""What is special -> golden answers, answers of the runtime."""


def said(job: Callable[..., object], *arguments: object) -> str | None:
    """What is said, or ``None`` if nothing is wrong."""
    try:
        job(*arguments)
    except ExporterError as error:
        return error.message
    return None


def read_archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="exporter-") as scratch:
        path = Path(scratch, "bundle.tar")
        path.write_bytes(data)
        folder = reading.unpack(path, Path(scratch, "unpacked"))
        reading.check_files(reading.read(folder), folder)


def compare(expected: list[list[int]], found: list[list[int]]) -> None:
    golden = [{"prompt_ids": [number], "answer_ids": ids} for number, ids in enumerate(expected)]
    reading.check_golden(golden, lambda prompt, count: found[prompt[0]])


def vectors() -> dict[str, Any]:
    texts = {about: json.dumps(document() | changed, ensure_ascii=False) for about, changed in (RIGHT | WRONG).items()}
    missing = {
        f"without {field}": json.dumps({k: v for k, v in document().items() if k != field}) for field in document()
    }
    return {
        "texts": TEXTS,
        "documents": [
            {"about": about, "text": text, "message": said(validation.parse, text)}
            for about, text in (texts | missing | NO_DOCUMENT).items()
        ],
        "archives": [
            {"about": about, "base64": base64.b64encode(data).decode(), "message": said(read_archive, data)}
            for about, data in archives.all_of_them(document, FILES).items()
        ],
        "runtimes": [
            {"about": about, "needed": needed, "found": found, "message": said(reading.check_runtime, needed, found)}
            for about, (needed, found) in RUNTIMES.items()
        ],
        "golden": [
            {"about": about, "expected": expected, "found": found, "message": said(compare, expected, found)}
            for about, (expected, found) in ANSWERS.items()
        ],
    }
