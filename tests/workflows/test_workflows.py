"""Workflows, image and build file: pinned, careful with what they may do, and all their commands exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from exporter import matrix
from tests.pipeline.conftest import needs_llama_cpp
from tests.workflows.scripts import ROOT, WORKFLOWS, check, commands, load, steps

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)


def test_they_are_there() -> None:
    assert [path.name for path in WORKFLOWS] == ["artifacts.yml", "ci.yml"]


@each_workflow
class TestWorkflows:
    def test_every_action_is_pinned_to_a_commit(self, workflow: Path) -> None:
        lines = re.findall(r"^\s*(?:- )?uses: (.+)$", workflow.read_text(), re.MULTILINE)
        assert len(lines) == sum("uses" in step for step in steps(workflow)) > 0
        for line in lines:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line

    def test_an_action_has_one_version_everywhere(self, workflow: Path) -> None:
        text = "".join(path.read_text() for path in WORKFLOWS)
        pins = dict(re.findall(r"uses: ([\w/-]+)@(\w+)", text))
        for name, pin in re.findall(r"uses: ([\w/-]+)@(\w+)", workflow.read_text()):
            assert pins[name] == pin

    def test_nobody_may_more_than_read_but_the_job_that_releases(self, workflow: Path) -> None:
        document = load(workflow)
        assert document["permissions"] == {"contents": "read"}
        writing = {name for name, job in document["jobs"].items() if "permissions" in job}
        assert writing <= {"release"}
        for name in writing:
            assert document["jobs"][name]["if"] == "github.ref_type == 'tag'"

    def test_every_job_ends(self, workflow: Path) -> None:
        for name, job in load(workflow)["jobs"].items():
            assert 0 < job["timeout-minutes"] <= 60, name

    def test_no_value_is_pasted_into_a_script(self, workflow: Path) -> None:
        """What a branch or a cell is called could be a command; variables are not run."""
        for step in steps(workflow):
            assert "${{" not in step.get("run", "")

    def test_every_script_is_shell(self, workflow: Path) -> None:
        for step in steps(workflow):
            if "run" in step:
                done = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False)
                assert done.returncode == 0, done.stderr

    def test_what_jobs_ask_of_others_is_offered(self, workflow: Path) -> None:
        jobs = load(workflow)["jobs"]
        for needed, output in re.findall(r"needs\.([\w-]+)\.outputs\.([\w-]+)", workflow.read_text()):
            offered = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.(\w+) \}\}", jobs[needed]["outputs"][output])
            assert offered is not None
            step, name = offered.groups()
            (script,) = (s["run"] for s in jobs[needed]["steps"] if s.get("id") == step)
            assert f'"{name}=' in script

    def test_every_command_of_the_exporter_exists(self, workflow: Path) -> None:
        found = [words for step in steps(workflow) for words in commands(step.get("run", ""))]
        assert found
        for words in found:
            check(words)

    def test_every_file_they_name_exists(self, workflow: Path) -> None:
        for name in re.findall(r"[\w./]+\.(?:txt|py|yaml)\b", workflow.read_text()):
            assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    "script",
    [
        "exporter exprot x",
        "exporter export --from artifacts.yaml --olny x --out build",
        "exporter export --from artifacts.yaml --only x",
        "exporter export --from artifacts.yaml --quant int4 --out build",
        "exporter diff old",
        "if true; then exporter diff old new --gate x; fi",
        'echo "$(exporter matrix a.yaml --format xml)"',
    ],
)
def test_a_command_that_is_wrong_is_noticed(script: str) -> None:
    (words,) = commands(script)
    with pytest.raises(click.UsageError):
        check(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_exists(document: Path) -> None:
    for script in re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
        for words in commands(re.sub(r"#.*", "", script)):
            if "…" not in words:
                check(words)


def test_the_build_file_expands_and_has_gates() -> None:
    build = matrix.load(ROOT / "artifacts.yaml")
    assert {cell.target for cell in build.cells} == {"gguf", "onnx", "executorch"}
    assert {"size", "kl", "top1"} <= build.gates.keys()
    assert len({cell.name for cell in build.cells}) == len(build.cells)


class TestImage:
    TEXT = (ROOT / "Dockerfile").read_text()

    def test_its_base_is_pinned_by_digest(self) -> None:
        assert re.search(r"^FROM python:3\.12\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", self.TEXT, re.MULTILINE)

    def test_every_package_comes_pinned(self) -> None:
        for line in re.findall(r"^.*pip install.*$", self.TEXT, re.MULTILINE):
            assert "-c constraints.txt" in line
        assert "\ntorch==2.13.0\n" in (ROOT / "constraints.txt").read_text()

    def test_what_it_copies_is_there_and_not_ignored(self) -> None:
        ignore = (ROOT / ".dockerignore").read_text().splitlines()
        copied = [name for line in re.findall(r"^COPY (.+)$", self.TEXT, re.MULTILINE) for name in line.split()[:-1]]
        assert ignore[0] == "*"
        for name in copied:
            assert (ROOT / name).exists()
            assert f"!{name}" in ignore

    def test_its_commands_exist(self) -> None:
        assert 'ENTRYPOINT ["exporter"]' in self.TEXT
        found = commands(re.sub(r"^# +", "", self.TEXT, flags=re.MULTILINE))
        assert [words[0] for words in found] == ["export", "targets"]
        for words in found:
            check(words)


@pytest.mark.slow
@needs_llama_cpp
class TestABuild:
    """The scripts of ``artifacts.yml`` as a runner runs them, on the tiny model; a script stands in for ``gh``."""

    @pytest.fixture
    def runner(self, model: Path, tmp_path: Path) -> Path:
        """A checkout with its tools, and no release."""
        (tmp_path / "bin").mkdir()
        for name, script in {
            "exporter": f'exec {sys.executable} {ROOT}/cli.py "$@"',
            "gh": 'for last; do :; done; [ -d "$RELEASE" ] && cp "$RELEASE"/* "$last"',
        }.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/bash\n{script}\n")
            path.chmod(0o755)
        shutil.copytree(model, tmp_path / "tiny")
        (tmp_path / "artifacts.yaml").write_text(
            "{schema: 1, models: {tiny: tiny}, artifacts: {gguf: [int4]}, gates: {size: 0%, tensors: 0%}}"
        )
        return tmp_path

    def run(self, runner: Path, *names: str) -> subprocess.CompletedProcess[str]:
        """Some steps of the job, one after the other."""
        found = {step.get("name"): step.get("run") for step in steps(ROOT / ".github/workflows/artifacts.yml")}
        env = {
            **os.environ,
            "NAME": "tiny-gguf-int4",
            "PATH": f"{runner / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RELEASE": str(runner / "release"),
            "GITHUB_STEP_SUMMARY": str(runner / "summary.md"),
            "GITHUB_OUTPUT": str(runner / "output"),
        }
        script = "\n".join(found[name] for name in names)
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script], cwd=runner, env=env, capture_output=True, text=True, check=False
        )

    def test_it_is_proved_compared_and_laid_out(self, runner: Path, model: Path) -> None:
        build = ("Build and prove", "Lay out the release files", "Compare with the last release")
        first = self.run(runner, "Expand the build file", *build)
        assert first.returncode == 0, first.stderr
        assert '"name":"tiny-gguf-int4"' in (runner / "output").read_text()
        assert "there is nothing to compare it with" in (runner / "summary.md").read_text()
        assert sorted(p.name for p in (runner / "dist").iterdir()) == [
            "tiny-gguf-int4.manifest.json", "tiny-gguf-int4.report.html", "tiny-gguf-int4.tar",
        ]  # fmt: skip

        (runner / "dist").rename(runner / "release")
        shutil.rmtree(runner / "build")
        second = self.run(runner, *build)
        assert second.returncode == 0, second.stderr
        assert "tiny-gguf-int4: cached, pass" in second.stderr
        assert " same" in second.stdout

        # Another model under the same name is a regression that the gates stop.
        shard = max((runner / "tiny").glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-2] + b"\x00\x3d")
        for folder in ("build", "dist", "last"):
            shutil.rmtree(runner / folder)
        third = self.run(runner, *build)
        assert third.returncode == 1, third.stderr
        assert "the new build is beyond its gates" in third.stderr
