"""``export --from``: cells in folders of their own, a cache that gives back the same bytes, several at once."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import building, manifest, pipeline
from exporter.artifact import MANIFEST
from exporter.building import Settings
from exporter.matrix import load
from exporter.workers import build_side_by_side
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import Outcome, run, sha256, snapshot
from tests.pipeline.harness import manifest as manifest_of


@pytest.fixture
def build_file(model: Path, tmp_path: Path) -> Path:
    """Two cells of the tiny model: ``tiny-gguf-q8_0`` and ``tiny-gguf-int4``."""
    path = tmp_path / "build.yaml"
    path.write_text(json.dumps({"schema": 1, "models": {"tiny": str(model)}, "artifacts": {"gguf": ["q8_0", "int4"]}}))
    return path


CELL = "tiny-gguf-q8_0"


def build(build_file: Path, out: Path, *options: object, only: str = CELL, check: bool = False) -> Outcome:
    chosen = ("--only", only) if only else ()
    verify = "--verify" if check else "--no-verify"
    return run("export", "--from", build_file, *chosen, "--out", out, verify, *options)


def status(outcome: Outcome) -> dict[str, str]:
    """Cell -> what became of it, of a command with ``--format json``."""
    return {cell["name"]: cell["status"] for cell in outcome.json["cells"]}


JSON = ("--format", "json")


class TestCells:
    def test_each_has_a_folder_of_its_name(self, build_file: Path, tmp_path: Path) -> None:
        outcome = build(build_file, tmp_path / "out", *JSON, only="")
        assert outcome.code == 0, outcome.stderr
        assert status(outcome) == {"tiny-gguf-q8_0": "built", "tiny-gguf-int4": "built"}
        for name, quant in (("tiny-gguf-q8_0", "q8_0"), ("tiny-gguf-int4", "int4")):
            (artifact,) = manifest_of(tmp_path / "out" / name)["artifacts"]
            assert artifact["quant"] == quant

    def test_one_is_built_by_its_name(self, build_file: Path, tmp_path: Path) -> None:
        outcome = build(build_file, tmp_path / "out")
        assert outcome.code == 0, outcome.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == [CELL]
        assert CELL in outcome.stdout
        assert "tiny-gguf-q8_0: built, not run" in outcome.stderr

    def test_a_name_that_is_none_is_refused(self, build_file: Path, tmp_path: Path) -> None:
        outcome = build(build_file, tmp_path / "out", only="tiny-gguf-q9")
        assert outcome.code == 2
        assert outcome.error["expected"] == "tiny-gguf-q8_0, tiny-gguf-int4"

    def test_nothing_is_replaced_unasked(self, build_file: Path, tmp_path: Path) -> None:
        assert build(build_file, tmp_path / "out").code == 0
        before = snapshot(tmp_path / "out")
        outcome = build(build_file, tmp_path / "out")
        assert (outcome.code, outcome.error["hint"]) == (2, "pass --force to replace it")
        assert snapshot(tmp_path / "out") == before
        assert build(build_file, tmp_path / "out", "--force").code == 0

    def test_a_folder_of_something_else_is_left_alone(self, build_file: Path, model: Path, tmp_path: Path) -> None:
        folder = tmp_path / "out" / CELL
        assert run("export", model, "--target", "gguf", "--quant", "f16", "--out", folder, "--no-verify").code == 0
        before = snapshot(folder)
        outcome = build(build_file, tmp_path / "out", "--force")
        assert outcome.code == 2
        assert outcome.error["found"] == "gguf f16"
        assert snapshot(folder) == before

    def test_an_error_does_not_stop_the_others(self, build_file: Path, tmp_path: Path) -> None:
        document = json.loads(build_file.read_text())
        document["models"] = {"gone": str(tmp_path / "gone"), **document["models"]}
        build_file.write_text(json.dumps(document))
        outcome = build(build_file, tmp_path / "out", *JSON, "--junit", tmp_path / "junit.xml", only="")
        assert outcome.code == 2
        assert status(outcome) == {
            "gone-gguf-q8_0": "error", "gone-gguf-int4": "error", "tiny-gguf-q8_0": "built", "tiny-gguf-int4": "built",
        }  # fmt: skip
        assert outcome.stderr.count("error: ") == 2
        assert outcome.json["cells"][0]["error"]["message"] in (tmp_path / "junit.xml").read_text()

    def test_an_interrupt_says_what_stays(
        self, build_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest = building.build

        def interrupted(cell: building.Cell, *rest: Any) -> building.Outcome:
            if cell.quant == "int4":
                raise KeyboardInterrupt
            return honest(cell, *rest)

        monkeypatch.setattr(building, "build", interrupted)
        outcome = build(build_file, tmp_path / "out", only="")
        assert outcome.code == 130
        assert outcome.stderr.splitlines()[-1] == f"interrupted: cells that were finished stay: {CELL}"
        assert [path.name for path in (tmp_path / "out").iterdir()] == [CELL]

    def test_a_dry_run_writes_nothing(self, build_file: Path, tmp_path: Path) -> None:
        before = snapshot(tmp_path)
        outcome = build(build_file, tmp_path / "out", "--dry-run", *JSON, only="")
        assert [a["quant"] for a in outcome.json["artifacts"]] == ["q8_0", "int4"]
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("MODEL",), "MODEL does not go with --from"),
            (("--target", "gguf"), "--target does not go with --from"),
            (("--quant", "int4"), "--quant does not go with --from"),
            (("--group-size", "64"), "--group-size does not go with --from"),
            (("--calibrate", "builtin"), "--calibrate does not go with --from"),
            (("--revision", "main"), "--revision does not go with --from"),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else "",
    )
    def test_what_the_build_file_says_is_not_said_again(
        self, arguments: tuple[str, ...], message: str, build_file: Path, tmp_path: Path
    ) -> None:
        outcome = build(build_file, tmp_path / "out", *arguments)
        assert (outcome.code, message in outcome.stderr) == (2, True), outcome.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "Missing argument 'MODEL'"),
            (("tiny",), "Missing option '--target'"),
            (("tiny", "--target", "gguf", "--only", "x"), "--only needs --from"),
            (("tiny", "--target", "gguf", "--cache", "x"), "--cache needs --from"),
        ],
    )
    def test_without_a_build_file_there_are_no_cells(
        self, arguments: tuple[str, ...], message: str, tmp_path: Path
    ) -> None:
        outcome = run("export", *arguments, "--out", tmp_path / "out")
        assert (outcome.code, message in outcome.stderr) == (2, True), outcome.stderr


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a changed bit": lambda entry: _flip(entry / "files/gguf/tiny-Q8_0.gguf"),
    "a changed manifest": lambda entry: _flip(entry / "files/manifest.json"),
    "a missing file": lambda entry: (entry / "files/README.md").unlink(),
    "an unreadable list": lambda entry: (entry / "entry.json").write_text("{"),
    "another list": lambda entry: (entry / "entry.json").write_text('{"files": [], "inputs": {}}'),
    "a path out of it": lambda entry: _edit(entry / "entry.json", "README.md", "../../README.md"),
}


class TestCache:
    @pytest.fixture
    def cached(self, build_file: Path, tmp_path: Path) -> Path:
        """A cache that knows the cell, which lies in ``first``."""
        assert build(build_file, tmp_path / "first", "--cache", tmp_path / "cache").code == 0
        return tmp_path / "cache"

    def rebuilt(self, build_file: Path, tmp_path: Path, *options: object) -> Outcome:
        return build(build_file, tmp_path / "second", "--cache", tmp_path / "cache", *JSON, *options)

    def test_the_second_time_is_a_lookup(
        self, cached: Path, build_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "export", lambda *_: pytest.fail("built again"))
        outcome = self.rebuilt(build_file, tmp_path)
        assert status(outcome) == {CELL: "cached"}
        # The manifest has the seconds that the first build took: only a copy can be equal.
        assert snapshot(tmp_path / "second") == snapshot(tmp_path / "first")

    def test_it_replaces_what_is_there_when_it_is_told_to(self, cached: Path, build_file: Path, tmp_path: Path) -> None:
        assert build(build_file, tmp_path / "second", "--split-max-size", "80K").code == 0
        assert self.rebuilt(build_file, tmp_path).code == 2
        assert status(self.rebuilt(build_file, tmp_path, "--force")) == {CELL: "cached"}
        assert snapshot(tmp_path / "second") == snapshot(tmp_path / "first"), "no piece is left behind"

    def test_a_strangers_file_is_not_replaced(self, cached: Path, build_file: Path, tmp_path: Path) -> None:
        (tmp_path / "second" / CELL).mkdir(parents=True)
        (tmp_path / "second" / CELL / "report.html").write_text("mine")
        outcome = self.rebuilt(build_file, tmp_path)
        assert outcome.code == 2
        assert "report.html exists already" in outcome.error["error"]
        assert (tmp_path / "second" / CELL / "report.html").read_text() == "mine"

    def test_the_environment_can_name_it(
        self, cached: Path, build_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EXPORTER_CACHE", str(cached))
        assert status(build(build_file, tmp_path / "second", *JSON)) == {CELL: "cached"}

    @pytest.mark.parametrize("options", [("--split-max-size", "80K"), ("--no-browser",)], ids=lambda o: o[0])
    def test_other_options_are_another_entry(
        self, options: tuple[str, ...], cached: Path, build_file: Path, tmp_path: Path
    ) -> None:
        assert status(self.rebuilt(build_file, tmp_path, *options)) == {CELL: "built"}

    def test_other_weights_are_another_entry(self, model: Path, cached: Path, build_file: Path, tmp_path: Path) -> None:
        copy = tmp_path / "models" / model.name
        shutil.copytree(model, copy)
        shard = max(copy.glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-2] + b"\x00\x3c")
        build_file.write_text(build_file.read_text().replace(str(model), str(copy)))
        assert status(self.rebuilt(build_file, tmp_path)) == {CELL: "built"}

    @pytest.mark.parametrize("what", ["code", "tools"])
    def test_other_code_is_another_entry(
        self, what: str, cached: Path, build_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if what == "code":
            monkeypatch.setattr(building, "code_digest", lambda: "another")
        else:
            monkeypatch.setattr(manifest, "tool_versions", lambda: {"exporter": "0.1.0", "numpy": "0"})
        assert status(self.rebuilt(build_file, tmp_path)) == {CELL: "built"}

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_entry_is_found_and_built_again(
        self, damage: str, cached: Path, build_file: Path, tmp_path: Path
    ) -> None:
        (entry,) = (path.parent for path in cached.rglob("entry.json"))
        DAMAGES[damage](entry)
        outcome = self.rebuilt(build_file, tmp_path)
        assert status(outcome) == {CELL: "built"}
        assert "its entry in the cache was damaged" in outcome.stderr
        first, second = (tmp_path / out / CELL for out in ("first", "second"))
        assert sha256(first / "gguf/tiny-Q8_0.gguf") == sha256(second / "gguf/tiny-Q8_0.gguf")
        assert status(build(build_file, tmp_path / "third", "--cache", cached, *JSON)) == {CELL: "cached"}
        assert not list(tmp_path.rglob("*.staging"))

    @needs_llama_cpp
    def test_what_failed_is_never_kept(self, build_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seeded = pipeline.parity.Check("metadata", False, "rope_theta: expected 5, found 1")
        junit = tmp_path / "junit.xml"
        options = ("--cache", tmp_path / "cache", "--junit", junit)
        with monkeypatch.context() as patch:
            patch.setattr("exporter.parity.check_config", lambda *_: seeded)
            outcome = build(build_file, tmp_path / "out", *options, check=True)
        assert (outcome.code, outcome.error["error"]) == (3, f"verdict FAIL: {CELL}")
        assert f"{CELL}: metadata: FAILED: rope_theta" in outcome.stderr
        assert not (tmp_path / "cache").exists()
        text = junit.read_text()
        assert '<failure message="metadata: rope_theta: expected 5, found 1"' in text
        assert "expected: every hyperparameter as the graph has it\nfound: rope_theta: expected 5, found 1" in text
        again = build(build_file, tmp_path / "out", *options, *JSON, check=True)
        assert status(again) == {CELL: "built"}
        assert again.json["cells"][0]["verdict"] == "pass"
        assert 'failures="0"' in junit.read_text()

    def test_a_cache_that_cannot_be_written_costs_nothing_but_itself(self, build_file: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        outcome = self.rebuilt(build_file, tmp_path)
        assert status(outcome) == {CELL: "built"}
        assert "not kept in the cache" in outcome.stderr


class TestSummary:
    def test_it_has_all_that_a_pipeline_asks(self, build_file: Path, tmp_path: Path) -> None:
        summary = tmp_path / "deep" / "summary.json"
        assert build(build_file, tmp_path / "out", "--summary", summary).code == 0
        document = json.loads(summary.read_text())
        (cell,) = document["cells"]
        (artifact,) = manifest_of(tmp_path / "out" / CELL)["artifacts"]
        assert document["schema"] == 1
        assert cell == {
            "name": CELL, "status": "built", "verdict": "not run", "folder": str(tmp_path / "out" / CELL),
            "artifact": artifact,
        }  # fmt: skip

    def test_an_export_without_a_build_file_has_one_too(self, model: Path, tmp_path: Path) -> None:
        def export(model: Path) -> tuple[int, dict[str, Any]]:
            outcome = run(
                *("export", model, "--target", "gguf", "--quant", "int4", "--out", tmp_path / "out", "--no-verify"),
                *("--summary", tmp_path / "summary.json", "--junit", tmp_path / "junit.xml"),
            )
            (cell,) = json.loads((tmp_path / "summary.json").read_text())["cells"]
            return outcome.code, cell

        code, cell = export(model)
        assert (code, cell["name"], cell["status"]) == (0, "gguf-int4", "built")
        code, cell = export(tmp_path / "gone")
        assert (code, cell["status"]) == (2, "error")
        assert cell["error"]["message"]
        assert 'errors="1"' in (tmp_path / "junit.xml").read_text()


@pytest.mark.slow
class TestSideBySide:
    """Several processes; without the check, so that none of them needs torch."""

    def test_they_build_the_same(self, build_file: Path, tmp_path: Path) -> None:
        for jobs in (1, 2):
            outcome = build(build_file, tmp_path / str(jobs), "--jobs", jobs, *JSON, only="")
            assert outcome.code == 0, outcome.stderr
            assert [*status(outcome).items()] == [("tiny-gguf-q8_0", "built"), ("tiny-gguf-int4", "built")]
        one, two = ({k: v for k, v in snapshot(tmp_path / j).items() if not k.endswith(MANIFEST)} for j in "12")
        assert one == two

    def test_a_process_that_dies_is_an_error_of_its_cell(self, build_file: Path, tmp_path: Path) -> None:
        def kill() -> None:
            while not (children := multiprocessing.active_children()):
                time.sleep(0.01)
            children[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        cells = load(build_file).cells[:1]
        (outcome,) = build_side_by_side(cells, Settings(tmp_path / "out", check=False), 1, lambda cell: None)
        killer.join()
        assert (outcome.name, outcome.status) == (CELL, "error")
        assert outcome.error is not None
        assert outcome.error.found == "exit code -9"

    def test_an_interrupt_ends_them_all(self, build_file: Path, tmp_path: Path) -> None:
        def interrupt(cell: building.Cell) -> None:
            if multiprocessing.active_children():
                raise KeyboardInterrupt

        running = build_side_by_side(load(build_file).cells, Settings(tmp_path / "out", check=False), 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(running)
        assert not multiprocessing.active_children()
        assert not list(tmp_path.rglob("*.staging"))
