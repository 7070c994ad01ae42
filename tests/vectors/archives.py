"""Archives for ``bundles.json``: as the exporter writes them, as other tools do, and damaged ones."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporter.bundle.archive import write_tar

Files = Mapping[str, bytes]
Document = Callable[[Files], dict[str, Any]]

LONG = "executorch/" + "a-name-of-more-than-a-hundred-bytes/" * 3 + "model.pte"
FOREIGN = "executorch/モデル.pte"
BLOCK = 512


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def pack(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:
    """An archive without the padding to 20 blocks that ``tarfile`` adds: two empty blocks end it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return buffer.getvalue()[:end] + bytes(2 * BLOCK)


def exported(document: Document, files: Files) -> bytes:
    """What the exporter itself writes."""
    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        path = Path(folder) / "bundle.tar"
        write_tar(path, json.dumps(document(files)), Path(folder), list(files))
        return path.read_bytes()


def all_of_them(document: Document, files: Files) -> dict[str, bytes]:
    """What is special -> archive."""

    def described(described_files: Files) -> tuple[tarfile.TarInfo, bytes]:
        return entry("bundle.json", json.dumps(document(described_files)).encode())

    head = described(files)
    model, tokenizer = (entry(name, data) for name, data in files.items())
    folder = entry("executorch", kind=tarfile.DIRTYPE)
    whole = pack(head, model, tokenizer)
    long, foreign = {LONG: b"long"}, {FOREIGN: b"foreign"}
    return {
        "as the exporter writes it": exported(document, files),
        "a name of more than 100 bytes": pack(described(long), entry(LONG, b"long")),
        "the same as GNU tar writes it": pack(described(long), entry(LONG, b"long"), form=tarfile.GNU_FORMAT),
        "a name of other letters": pack(described(foreign), entry(FOREIGN, b"foreign")),
        "in the format of 1988": pack(head, model, tokenizer, form=tarfile.USTAR_FORMAT),
        "a comment on all of it": pack(head, model, tokenizer, pax_headers={"comment": "日本"}),
        "with folders": pack(folder, head, model, tokenizer),
        "with a file that nobody mentions": pack(head, model, tokenizer, entry("README.md", b"Hi")),
        "packed from the inside": pack(*(entry(f"./{i.name}", data) for i, data in (head, model, tokenizer))),
        "without the empty blocks at its end": whole[: -2 * BLOCK],
        "with something behind its end": whole + b"x" * BLOCK,
        "no document": pack(model, tokenizer),
        "a document in a folder": pack(entry("bundle/bundle.json", head[1]), model, tokenizer),
        "a document that is not UTF-8": pack(entry("bundle.json", b'{"schema": "\xff"}'), model, tokenizer),
        "a document that is not valid": pack(entry("bundle.json", b"{}"), model, tokenizer),
        "nothing in it": pack(),
        "a file too few": pack(head, tokenizer),
        "a folder in place of a file": pack(head, entry(model[0].name, kind=tarfile.DIRTYPE), tokenizer),
        "another byte": pack(head, entry(model[0].name, b"Program"), tokenizer),
        "a byte too few": pack(head, entry(model[0].name, b"progra"), tokenizer),
        "a byte too many": pack(head, model, entry(tokenizer[0].name, b"{}\n")),
        "cut off in a file": pack(head, model, entry(tokenizer[0].name, bytes(3 * BLOCK)))[: -4 * BLOCK],
        "no archive": b"not an archive" * 100,
        "an empty file": b"",
        "a header of which a bit fell over": bytes([whole[0] ^ 1]) + whole[1:],
        "a file outside": pack(head, model, tokenizer, entry("../outside")),
        "a file at the root": pack(head, model, tokenizer, entry("/outside")),
        "a symbolic link": pack(head, tokenizer, entry(model[0].name, kind=tarfile.SYMTYPE, link="tokenizer.json")),
        "a hard link": pack(head, tokenizer, entry(model[0].name, kind=tarfile.LNKTYPE, link=tokenizer[0].name)),
        "a device": pack(head, model, tokenizer, entry("null", kind=tarfile.CHRTYPE)),
    }
