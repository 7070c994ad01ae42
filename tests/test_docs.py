"""What the documents say in numbers and names is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter import targets
from exporter.manifest import SCHEMA
from exporter.targets.executorch.backends import BACKENDS
from exporter.targets.executorch.releases import RELEASES
from exporter.targets.onnx.capabilities import QUANTS as ONNX_QUANTS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "examples/android/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def rows(document: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two head lines."""
    section = re.split(rf"\n##+ {heading}\n", document.read_text(), maxsplit=1)[1].split("\n#", 1)[0]
    table = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)[2:]
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in table]


def number(cell: str) -> float | None:
    """``2^-10``, ``1e-3`` or ``-`` for none."""
    return None if cell == "-" else 2.0 ** int(cell[2:]) if cell.startswith("2^") else float(cell)


@pytest.mark.parametrize(
    ("target", "heading"), [("gguf", "The gates"), ("onnx", "In ONNX Runtime"), ("executorch", "In ExecuTorch")]
)
def test_the_gates_are_those_in_force(target: str, heading: str) -> None:
    documented = {name: tuple(map(number, gates)) for name, *gates in rows(ROOT / "docs/parity.md", heading)}
    assert documented == {q.name: (q.max_kl, q.max_abs, q.max_rounding) for q in targets.get(target).quants.values()}


def test_the_readme_knows_every_quantization() -> None:
    documented = {name: kind == "portable" for name, kind, *_ in rows(ROOT / "README.md", "Quantizations")}
    quants = [q for name in targets.REGISTRY for q in targets.get(name).quants.values()]
    # A name that is portable may still be one that some target can only come near.
    known = {q.name: any(other.portable for other in quants if other.name == q.name) for q in quants}
    assert documented == known


def test_the_onnx_page_knows_every_variant() -> None:
    documented = {name: (dtype, file) for name, dtype, file, *_ in rows(ROOT / "docs/onnx.md", "Variants")}
    assert documented == {q.name: (q.dtype, q.file_name) for q in ONNX_QUANTS.values()}


def test_the_budget_page_knows_every_type() -> None:
    """A column of bits for each group of rows that have the same types."""
    columns = [[("gguf", "int4")], [("gguf", "q4_0"), ("gguf", "q4_k_m"), ("gguf", "q6_k")]]
    columns += [[("onnx", "int4")], [("onnx", "q4f16")], [("executorch", "int4")]]
    documented = rows(ROOT / "docs/quantization.md", "The types")
    for index, members in enumerate(columns, 1):
        found = {row[0]: float(row[index]) for row in documented if row[index] != "-"}
        for target, quant in members:
            assert found == {kind.name: kind.bits for kind in targets.get(target).quants[quant].types.values()}


def test_the_executorch_page_knows_every_backend() -> None:
    documented = {
        name: (delegate, releases) for name, delegate, releases in rows(ROOT / "docs/executorch.md", "Backends")
    }
    assert documented == {
        b.name: (b.delegate or "-", ", ".join(RELEASES[key].name for key in b.releases) or "-")
        for b in BACKENDS.values()
    }


def test_the_manifest_is_documented_in_this_schema() -> None:
    schema = next(row for row in rows(ROOT / "docs/manifest.md", "Fields") if row[0] == "schema")
    assert schema[2].startswith(f"{SCHEMA}.")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        linked = document.parent / link if link else document
        assert linked.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor
