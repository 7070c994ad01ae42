"""``bundle.json`` as a reader takes it: every field there and of its type, or the first thing that is wrong.

The sample apps follow these rules in this order; ``tests/vectors/bundles.json`` holds all of them to the same messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from exporter.bundle.document import SCHEMA
from exporter.bundle.problems import problem

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _texts_by_name(value: Any) -> bool:
    return _object(value) and all(map(_text, value.values()))


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


FIELDS: dict[str, Check] = {
    "schema": _integer, "name": _text, "target": _text, "quant": _text, "artifact": _list, "files": _list,
    "runtime": _object, "requires": _object, "context_length": _integer, "vocab_size": _integer,
    "expected_ram_bytes": _integer, "bos_id": _or_null(_integer), "stop_ids": _list, "stop_tokens": _list,
    "chat_template": _or_null(_text), "prompt_format": _or_null(_object), "license": _text, "notice": _text,
    "golden": _list,
}  # fmt: skip
"""Field -> what its value must be; ``docs/bundle.schema.json`` says the same with all its details."""

NESTED: dict[str, dict[str, Check]] = {
    "runtime": {"versions": _texts_by_name, "packages": _texts_by_name},
    "prompt_format": {
        "begin": _text, "begin_system": _text, "system_user": _text, "user_assistant": _text, "assistant_user": _text,
        "user_end": _text, "trims": _flag, "date_format": _or_null(_text),
    },
}  # fmt: skip
"""Field -> the fields of its object."""


def _is_file(entry: Any) -> bool:
    return (
        _object(entry)
        and _text(entry.get("path"))
        and _stays_inside(entry["path"])
        and _integer(entry.get("bytes"))
        and _text(entry.get("sha256"))
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None
    )


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return path != "" and not pure.is_absolute() and ".." not in pure.parts


def _is_golden(entry: Any) -> bool:
    return (
        _object(entry)
        and _text(entry.get("prompt"))
        and all(_list(entry.get(name)) and all(map(_integer, entry[name])) for name in ("prompt_ids", "answer_ids"))
    )


ENTRIES: dict[str, Check] = {
    "artifact": _text, "files": _is_file, "stop_ids": _integer, "stop_tokens": _text, "golden": _is_golden,
}  # fmt: skip
"""List -> what its entries must be."""


def parse(text: str) -> dict[str, Any]:
    """``bundle.json`` from its text.

    Raises:
        ExporterError: See :data:`exporter.bundle.problems.TEXTS`.
    """
    for where in _complaints(document := _load(text)):
        raise problem("invalid", where=where)
    if not document["golden"]:
        raise problem("golden_missing")
    return document


def _load(text: str) -> dict[str, Any]:
    """Raises ExporterError for what is no object, or one of another schema, of which nothing else can be said."""
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise problem("invalid", where="it is not JSON") from None
    if not isinstance(document, dict):
        raise problem("invalid", where="it is not an object")
    if _integer(document.get("schema")) and document["schema"] != SCHEMA:
        raise problem("schema", found=document["schema"], expected=SCHEMA)
    return document


def _complaints(document: dict[str, Any]) -> Iterator[str]:
    """What is wrong, the most general first; lazily, because each check relies on those before it."""
    yield from _fields(document, FIELDS)
    for name, fields in NESTED.items():
        if document[name] is not None:
            yield from _fields(document[name], fields, f"{name}.")
    for name, check in ENTRIES.items():
        if not all(map(check, document[name])):
            yield f"{name} has an entry that is none"
    paths = {file["path"] for file in document["files"]}
    if not document["artifact"] or not paths.issuperset(document["artifact"]):
        yield "artifact is not among the files"


def _fields(found: dict[str, Any], fields: dict[str, Check], prefix: str = "") -> Iterator[str]:
    for name, check in fields.items():
        if name not in found:
            yield f"{prefix}{name} is missing"
        elif not check(found[name]):
            yield f"{prefix}{name} has another type"
