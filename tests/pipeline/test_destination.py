"""The destination: refused when it must be, replaced when asked, and never half-written, whatever ends the run."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import interrupts, pipeline
from exporter.artifact import MANIFEST, sha256_file, staging
from exporter.targets.gguf import plan
from tests.fixtures.models import META_SPEC, write_huggingface
from tests.pipeline.conftest import SPEC, needs_llama_cpp
from tests.pipeline.harness import command, export, manifest, process, run, sha256, snapshot, write_poked


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, yet it takes a moment to write: 40 MB in float32."""
    spec = META_SPEC.replace(dim=512, head_dim=128, ffn_dim=1536, n_layers=3)
    return write_huggingface(tmp_path_factory.mktemp("big") / "big", spec)


@pytest.fixture(params=["new", "existing"])
def out(request: pytest.FixtureRequest, big: Path, tmp_path: Path) -> Path:
    """A destination that is not there yet, in a folder that is not either, or one that holds an earlier export."""
    if request.param == "new":
        return tmp_path / "deep" / "out"
    assert export(big, tmp_path / "out", "int4").code == 0
    (tmp_path / "out" / "notes.txt").write_text("somebody's own file")
    return tmp_path / "out"


class TestExisting:
    def test_an_artifact_is_not_replaced_unasked(self, model: Path, tmp_path: Path) -> None:
        export(model, tmp_path / "out", "int4")
        before = snapshot(tmp_path)
        outcome = export(model, tmp_path / "out", "int4")
        assert outcome.code == 2
        assert outcome.error["error"] == f"{tmp_path}/out/gguf/tiny-INT4.gguf exists already"
        assert "--force" in outcome.error["hint"]
        assert snapshot(tmp_path) == before

    def test_force_replaces_it(self, tmp_path: Path) -> None:
        first, second = (write_huggingface(tmp_path / str(i) / "tiny", SPEC.replace(seed=i)) for i in (0, 1))
        export(first, tmp_path / "out", "int4")
        assert export(second, tmp_path / "out", "int4", options=("--force",)).code == 0
        (artifact,) = manifest(tmp_path / "out")["artifacts"]
        assert artifact["files"][0]["sha256"] == sha256(tmp_path / "out" / "gguf" / "tiny-INT4.gguf")
        assert manifest(tmp_path / "out")["source"]["model"] == str(second)

    def test_a_second_quantization_joins_the_first(self, model: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        export(model, out, "q8_0")
        export(model, out, "int4")
        assert [a["quant"] for a in manifest(out)["artifacts"]] == ["int4", "q8_0"]
        for artifact in manifest(out)["artifacts"]:
            assert sha256(out / artifact["files"][0]["path"]) == artifact["files"][0]["sha256"]
        card = (out / "README.md").read_text()
        assert "tiny-INT4.gguf" in card
        assert "tiny-Q8_0.gguf" in card

    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
    @pytest.mark.parametrize("spec", [SPEC.replace(n_layers=1), SPEC.replace(seed=1)], ids=["size", "bytes"])
    def test_two_models_do_not_share_a_manifest(
        self, spec: object, force: tuple[str, ...], model: Path, tmp_path: Path
    ) -> None:
        export(model, tmp_path / "out", "q8_0")
        other = write_huggingface(tmp_path / "other", spec, shards=3)
        before = snapshot(tmp_path)
        outcome = export(other, tmp_path / "out", "int4", options=force)
        assert outcome.code == 2
        assert outcome.error["error"] == "the destination holds artifacts of another model, tiny"
        assert outcome.error["hint"]
        assert snapshot(tmp_path) == before

    def test_the_same_artifact_in_other_pieces_counts_as_existing(self, model: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        export(model, out, "q8_0", options=("--split-max-size", "80K"))
        outcome = export(model, out, "q8_0")
        assert outcome.code == 2
        assert outcome.error["error"] == f"{out} holds a gguf q8_0 already"
        assert export(model, out, "q8_0", options=("--force",)).code == 0
        assert [p.name for p in (out / "gguf").glob("*.gguf")] == ["tiny-Q8_0.gguf"], "no piece is left behind"

    def test_other_files_there_are_left_alone(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        assert export(model, tmp_path, "int4").code == 0
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_a_damaged_manifest_is_not_overwritten(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text("{")
        outcome = export(model, tmp_path, "int4")
        assert outcome.code == 2
        assert "is not JSON" in outcome.error["error"]
        assert (tmp_path / "manifest.json").read_text() == "{"


class TestRejected:
    """Some artifacts of a run are good and one is not."""

    @pytest.fixture
    def wrong_int4(self, monkeypatch: pytest.MonkeyPatch) -> None:
        add = plan.add_metadata

        def add_wrong(writer: object, subject: object, config: object, ftype: str, n_params: int) -> None:
            add(writer, subject, config.replace(rope_theta=1e4) if ftype == "Q4_0" else config, ftype, n_params)

        monkeypatch.setattr(plan, "add_metadata", add_wrong)

    @needs_llama_cpp
    def test_it_is_kept_aside_and_the_others_stay(self, wrong_int4: None, model: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        outcome = export(model, out, "int4", "q8_0", check=True)
        assert outcome.code == 3
        assert "gguf int4: metadata: FAILED: rope_theta: expected 500000.0, found 10000.0" in outcome.stderr
        assert outcome.error["error"] == "verdict FAIL: gguf int4"
        assert ".rejected" in outcome.error["hint"]
        assert sorted(str(p.relative_to(out)) for p in out.rglob("*.gguf")) == [
            ".rejected/tiny-INT4.gguf",
            "gguf/tiny-Q8_0.gguf",
        ]
        bad, good = manifest(out)["artifacts"]
        assert (bad["quant"], bad["parity"]["verdict"]) == ("int4", "fail")
        assert (good["quant"], good["parity"]["verdict"]) == ("q8_0", "pass")
        assert bad["files"][0]["path"] == ".rejected/tiny-INT4.gguf"
        assert bad["files"][0]["sha256"] == sha256(out / ".rejected" / "tiny-INT4.gguf")
        assert (out / "gguf" / "Modelfile").read_text().startswith("FROM ./tiny-Q8_0.gguf\n")
        assert "llama-cli -m .rejected" not in (out / "README.md").read_text()
        verdicts = [line.split()[-1] for line in outcome.stdout.splitlines() if ".gguf" in line]
        assert verdicts == ["fail", "pass"]

    @needs_llama_cpp
    def test_it_does_not_displace_a_good_one(self, model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        out = tmp_path / "out"
        export(model, out, "int4", check=True)
        good = snapshot(out / "gguf")
        request.getfixturevalue("wrong_int4")
        assert export(model, out, "int4", check=True, options=("--force",)).code == 3
        assert snapshot(out / "gguf") == good
        assert sorted(a["parity"]["verdict"] for a in manifest(out)["artifacts"]) == ["fail", "pass"]
        assert run("verify", out).code == 0

    @needs_llama_cpp
    def test_a_good_one_ends_the_rejection(self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr("exporter.parity.check_config", lambda *_: pipeline.parity.Check("metadata", False, "seeded"))
            assert export(model, out, "int4", check=True).code == 3
        assert export(model, out, "int4", check=True).code == 0
        (artifact,) = manifest(out)["artifacts"]
        assert artifact["parity"]["verdict"] == "pass"
        assert not (out / ".rejected").exists()


class TestUnusable:
    def test_a_file_is_no_folder(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        outcome = export(model, tmp_path / "out", "int4")
        assert outcome.code == 2
        assert "is a file" in outcome.error["error"]
        assert (tmp_path / "out").read_text() == "mine"

    def test_a_file_on_the_way_is_none_either(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        outcome = export(model, tmp_path / "file" / "out", "int4")
        assert outcome.code == 2
        assert "cannot write to" in outcome.error["error"]
        assert outcome.error["hint"]

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that refuses even root")
    def test_a_folder_that_cannot_be_written(self, model: Path) -> None:
        outcome = export(model, Path("/proc/exporter-out"), "int4")
        assert outcome.code == 2
        assert "cannot write to /proc/exporter-out" in outcome.error["error"]
        assert outcome.error["hint"]

    def test_another_export_into_the_same_folder_is_refused(self, out: Path, big: Path) -> None:
        with staging(out):
            outcome = export(big, out, "q8_0")
        assert outcome.code == 2
        assert "another export is writing" in outcome.error["error"]
        assert export(big, out, "q8_0").code == 0

    def test_two_runs_at_once_leave_one_good_export(self, model: Path, tmp_path: Path) -> None:
        arguments = command(
            "export", model, "--target", "gguf", "--quant", "int4", "--no-verify", "--out", tmp_path / "out"
        )
        both = [
            subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        said = [child.communicate()[1] for child in both]
        codes = sorted(child.returncode for child in both)
        assert codes in ([0, 2], [2, 0]), said
        assert "Traceback" not in "".join(said)
        assert [a["quant"] for a in manifest(tmp_path / "out")["artifacts"]] == ["int4"]
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


def fails_with(number: int) -> Callable[..., int]:
    def write(self: object, data: object) -> int:
        raise OSError(number, os.strerror(number))

    return write


class TestInterrupted:
    """Each test ends the same way: the destination is as it was, and the same command then succeeds."""

    @pytest.mark.parametrize(
        ("number", "hint"),
        [(errno.ENOSPC, "free some disk space"), (errno.EDQUOT, "quota"), (errno.EIO, "nothing was changed")],
    )
    def test_a_disk_that_refuses(
        self, number: int, hint: str, out: Path, big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = snapshot(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(plan._HashingFile, "write", fails_with(number))
            outcome = export(big, out, "q8_0")
        assert outcome.code == 2
        assert outcome.error["error"] == f"cannot write to {out}: {os.strerror(number)}"
        assert hint in outcome.error["hint"]
        assert snapshot(tmp_path) == before
        assert not list(tmp_path.rglob("*.staging"))
        assert export(big, out, "q8_0").code == 0

    def test_a_disk_that_is_full(self, out: Path, big: Path, tmp_path: Path) -> None:
        """The kernel's own refusal, in a process of its own: no file may grow above a megabyte."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        arguments = command("export", big, "--target", "gguf", "--quant", "f32", "--no-verify", "--out", out)
        before = snapshot(tmp_path)
        done = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=limit, check=False)
        assert done.returncode == 2, done.stderr
        assert f"error: cannot write to {out}: File too large" in done.stderr
        assert "Traceback" not in done.stderr
        assert snapshot(tmp_path) == before
        assert not list(tmp_path.rglob("*.staging"))

    def test_an_error_halfway_takes_back_what_was_finished(self, tmp_path: Path) -> None:
        """The first artifact is written when the second one turns out to be impossible."""
        source = write_poked(tmp_path / "tiny", "layers.1.feed_forward.w2.weight", (3, 5), 1e6)
        before = snapshot(tmp_path)
        outcome = export(source, tmp_path / "out", "f32", "f16")
        assert outcome.code == 2
        assert "does not fit into float16" in outcome.error["error"]
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
    )
    @pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
    def test_a_signal_while_writing(
        self, existing: bool, number: signal.Signals, code: int, big: Path, tmp_path: Path
    ) -> None:
        if existing:
            assert export(big, tmp_path / "out", "int4").code == 0
        quants = ("f32", "f16", "bf16", "q8_0", "q4_k_m", "q6_k")
        chosen = [part for quant in quants for part in ("--quant", quant)]
        arguments = ("export", big, "--target", "gguf", *chosen, "--no-verify", "--out", tmp_path / "out", "--jobs", 1)
        before = snapshot(tmp_path)
        child = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not _is_writing(tmp_path) and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(number)
        _, said = child.communicate(timeout=30)
        assert child.returncode == code, said
        assert "Traceback" not in said
        assert snapshot(tmp_path) == before
        if number != signal.SIGKILL:
            assert said.splitlines()[-1] == "interrupted: nothing was changed"
            assert not list(tmp_path.rglob("*.staging"))
        assert process(*arguments).code == 0
        assert not list(tmp_path.rglob("*.staging")), "the next run clears what a killed one left"
        assert {a["quant"] for a in manifest(tmp_path / "out")["artifacts"]} >= {*quants}


def _is_writing(folder: Path) -> bool:
    """Whether more than a megabyte of some artifact lies in a staging folder."""
    try:
        return any(".staging" in str(path) and path.stat().st_size > 1 << 20 for path in folder.rglob("*.gguf"))
    except FileNotFoundError:  # renamed while we looked
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_between_the_renames_comes_too_late(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    original = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(number)
        return original(self, target)

    with interrupts.raised(), staging(out) as stage:
        stage.write_text("a.txt", "a")
        stage.write_text(MANIFEST, "{}")
        monkeypatch.setattr(Path, "replace", interrupted)
        stage.commit()
    assert sorted(p.name for p in out.iterdir()) == ["a.txt", MANIFEST]
    with interrupts.raised(), pytest.raises(KeyboardInterrupt) as late:
        signal.raise_signal(number)
    assert interrupts.exit_code(late.value) == 128 + number


def test_hashing_stops_when_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(10))
    cancelled = threading.Event()
    assert sha256_file(path, cancelled) == hashlib.sha256(bytes(10)).hexdigest()
    cancelled.set()
    assert sha256_file(path, cancelled) == hashlib.sha256().hexdigest()
