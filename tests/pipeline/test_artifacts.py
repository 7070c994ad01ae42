"""What an export leaves behind, and what it says on the way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from exporter import targets
from exporter.targets.gguf.capabilities import QUANTS
from tests.fixtures import vocabulary
from tests.fixtures.models import weights
from tests.pipeline.conftest import SPEC, needs_llama_cpp, quickly
from tests.pipeline.harness import ROOT, Outcome, environment, export, manifest, metadata, run, sha256
from tests.pipeline.warm_llama import WarmLlama

COLUMNS = ("file", "size", "bits/weight", "seconds", "peak memory", "faithfulness", "quality", "verdict")

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
"""A foreground or background colour; bold text and moving the cursor are none (no-color.org)."""


@pytest.fixture(scope="module")
def everything(model: Path, warm_llama: WarmLlama, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Every quantization of the target, checked, and what the command said."""
    out = tmp_path_factory.mktemp("everything") / "out"
    with quickly(warm_llama):
        return out, export(model, out, *QUANTS, check=True, options=("--verbose",))


@needs_llama_cpp
class TestEveryQuantization:
    def test_passes_in_llama_cpp(self, everything: tuple[Path, Outcome]) -> None:
        out, outcome = everything
        assert outcome.code == 0, outcome.stderr
        assert {a["quant"]: a["parity"]["verdict"] for a in manifest(out)["artifacts"]} == dict.fromkeys(QUANTS, "pass")

    def test_the_table_is_all_that_stdout_has(self, everything: tuple[Path, Outcome]) -> None:
        lines = [line.rstrip() for line in everything[1].stdout.splitlines() if line.strip()]
        assert re.split(r"\s{2,}", lines[0].strip()) == [*COLUMNS]
        assert len(lines) == 2 + len(QUANTS)
        for quant, line in zip(QUANTS, lines[2:], strict=True):
            assert line.split()[0] == f"gguf/tiny-{quant.upper()}.gguf"
            assert line.split()[-1] == "pass"

    def test_verbose_tells_every_check_before_the_table(self, everything: tuple[Path, Outcome]) -> None:
        stderr = everything[1].stderr
        for check in ("metadata", "weights", "rounding", "vocabulary", "tokenizer", "logits"):
            assert len(re.findall(rf"^gguf \w+: {check}: ok: ", stderr, re.MULTILINE)) == len(QUANTS)

    def test_no_escape_sequence_reaches_a_pipe(self, everything: tuple[Path, Outcome]) -> None:
        assert "\x1b" not in everything[1].stderr + everything[1].stdout

    def test_the_folder_holds_what_was_promised(self, everything: tuple[Path, Outcome]) -> None:
        out, _ = everything
        found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
        models = {f"gguf/tiny-{quant.upper()}.gguf" for quant in QUANTS}
        assert found == models | {"gguf/Modelfile", "manifest.json", "README.md", "report.html", "report.json"}

    def test_the_manifest_has_the_documented_shape(self, everything: tuple[Path, Outcome], model: Path) -> None:
        document = manifest(everything[0])
        assert document["schema"] == 1
        assert document["source"]["model"] == str(model)
        assert document["source"]["format"] == "huggingface"
        assert {f["path"]: f["sha256"] for f in document["source"]["files"]} == {
            path.name: sha256(path) for path in model.iterdir()
        }
        assert document["model"]["config"]["rope_scaling"]["factor"] == 8.0
        assert {"exporter", "python", "gguf", "torch", "llama.cpp"} <= document["tools"].keys()
        for artifact in document["artifacts"]:
            assert {"target", "quant", "files", "bits_per_weight", "parity"} <= artifact.keys()
            for kind in ("faithfulness", "quality"):
                assert {"max_abs", "mean_kl", "top1"} <= artifact["parity"][kind].keys()

    def test_the_manifest_tells_the_truth_about_every_file(self, everything: tuple[Path, Outcome]) -> None:
        out, _ = everything
        n_weights = sum(array.size for array in weights(SPEC).values())
        for artifact in manifest(out)["artifacts"]:
            (file,) = artifact["files"]
            path = out / file["path"]
            assert (file["bytes"], file["sha256"]) == (path.stat().st_size, sha256(path))
            stored = sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors if t.name != "rope_freqs.weight")
            assert artifact["bits_per_weight"] == pytest.approx(8 * stored / n_weights, abs=1e-4)

    def test_a_smaller_type_costs_more(self, everything: tuple[Path, Outcome]) -> None:
        kl = {a["quant"]: a["parity"]["quality"]["mean_kl"] for a in manifest(everything[0])["artifacts"]}
        assert kl["f32"] < kl["f16"] < kl["q8_0"] < kl["q4_k_m"] < kl["q4_0"]
        assert kl["f32"] < 1e-9
        assert kl["int4"] < kl["q4_0"], "portable int4 loses no more than llama.cpp's format of the same bits"

    def test_the_modelfile_names_a_file_beside_it_and_every_stop(self, everything: tuple[Path, Outcome]) -> None:
        first, *rest = (everything[0] / "gguf" / "Modelfile").read_text().splitlines()
        path = everything[0] / "gguf" / first.removeprefix("FROM ./")
        assert first.startswith("FROM ./") and path.is_file()
        stops = [vocabulary.NAMED_SPECIALS[i] for i in (1, 8, 9)]
        assert rest == [f'PARAMETER stop "{stop}"' for stop in stops]

    def test_the_model_card_says_how_to_run_each_file_once(self, everything: tuple[Path, Outcome]) -> None:
        card = (everything[0] / "README.md").read_text()
        for quant in QUANTS:
            assert card.count(f"| `gguf/tiny-{quant.upper()}.gguf` |") == 1
            assert card.count(f"llama-cli -m gguf/tiny-{quant.upper()}.gguf\n") == 1
        assert card.count("ollama create") == 1
        assert not re.search(r" $|\n\n\n", card, re.MULTILINE)
        assert "# tiny\n" in card

    def test_general_metadata_is_filled_in(self, everything: tuple[Path, Outcome]) -> None:
        found = metadata(everything[0] / "gguf" / "tiny-Q4_K_M.gguf")
        assert found["general.architecture"] == "llama"
        assert found["general.name"] == "tiny"
        assert found["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
        assert found["general.quantization_version"] == gguf.GGML_QUANT_VERSION
        assert found["tokenizer.ggml.pre"] == "llama-bpe"
        assert found["llama.attention.layer_norm_rms_epsilon"] == np.float32(SPEC.norm_eps)


class TestOutput:
    def test_json_is_one_document_and_nothing_else(self, model: Path, tmp_path: Path) -> None:
        outcome = export(model, tmp_path / "out", "int4", "f16", options=("--format", "json"))
        assert [a["quant"] for a in outcome.json["artifacts"]] == ["int4", "f16"]
        entries = {a["quant"]: a for a in manifest(tmp_path / "out")["artifacts"]}
        assert {a["quant"]: a for a in outcome.json["artifacts"]} == entries
        assert entries["int4"]["parity"] == {"verdict": "not run"}

    def test_quiet_says_only_the_result(self, model: Path, tmp_path: Path) -> None:
        outcome = export(model, tmp_path / "out", "int4", options=("--quiet",))
        assert outcome.stderr == ""
        assert "gguf/tiny-INT4.gguf" in outcome.stdout

    def test_decisions_about_the_model_are_told(self, tmp_path: Path) -> None:
        from tests.fixtures.models import write_meta

        outcome = export(write_meta(tmp_path / "meta"), tmp_path / "out", "int4")
        assert "note: context length 8192" in outcome.stderr
        assert manifest(tmp_path / "out")["model"]["notes"]

    def test_a_terminal_gets_a_bar_and_colours_unless_it_wants_none(self, model: Path, tmp_path: Path) -> None:
        arguments = ("export", model, "--target", "gguf", "--quant", "f32", "--no-verify")
        colourful = on_a_terminal(*arguments, "--out", tmp_path / "a", TERM="xterm-256color")
        assert COLOUR.search(colourful)
        assert "kB" in colourful, "a bar in bytes"
        plain = on_a_terminal(*arguments, "--out", tmp_path / "b", TERM="xterm-256color", NO_COLOR="1")
        assert not COLOUR.search(plain)

    @needs_llama_cpp
    def test_the_table_is_the_last_thing_said_and_whole_on_a_narrow_terminal(self, model: Path, tmp_path: Path) -> None:
        seen = on_a_terminal(
            *("export", model, "--target", "gguf", "--quant", "q4_k_m", "--out", tmp_path / "out", "--verbose"),
            TERM="xterm",
            COLUMNS="80",
            NO_COLOR="1",
        )
        said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
        above, _, table = said.rpartition("verdict")
        assert "logits: ok" in above
        assert "gguf/tiny-Q4_K_M.gguf" in table
        assert "pass" in table
        assert "…" not in table

    def test_a_refusal_in_json_mode_leaves_stdout_empty(self, model: Path, tmp_path: Path) -> None:
        outcome = export(model, tmp_path / "out", "q3_k_xxl", options=("--format", "json"))
        assert outcome.code == 2
        assert outcome.stdout == ""


def on_a_terminal(*arguments: object, **changes: str) -> str:
    """Everything a command writes to a terminal."""
    import os
    import pty

    from tests.pipeline.harness import command

    ours, theirs = pty.openpty()
    env = environment(**changes)
    if "NO_COLOR" not in changes:
        env.pop("NO_COLOR", None)
    child = subprocess.Popen(command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 4096):
            seen += data
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0, seen
    return seen.decode()


class TestHelp:
    def test_answers_at_once(self) -> None:
        code = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
        )
        arguments = [sys.executable, "-c", code, sys.executable, str(ROOT / "cli.py"), "--help"]
        best = min(float(subprocess.run(arguments, capture_output=True, check=True).stdout) for _ in range(3))
        assert best < 0.5

    @pytest.mark.parametrize("command", ["--help", "export --help", "verify --help", "--version"])
    def test_imports_nothing_heavy(self, command: str) -> None:
        code = (
            "import sys; from exporter.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
        )
        arguments = [sys.executable, "-c", code, *command.split()]
        modules = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
        assert not {"torch", "onnx", "onnx_ir", "numpy", "numba", "gguf", "tokenizers", "rich"} & {*modules}

    def test_targets_lists_every_name_and_the_runtime_found(self) -> None:
        listed = run("targets", "--format", "json").json["targets"]
        assert [target["name"] for target in listed] == [*targets.REGISTRY]
        assert [quant["name"] for quant in listed[0]["quants"]] == [*QUANTS]
        works_on = {q["name"]: q["targets"] for q in listed[0]["quants"]}
        assert works_on["f32"] == [*targets.REGISTRY]
        assert works_on["int4"] == ["gguf", "onnx"]
        assert works_on["bf16"] == works_on["q4_k_m"] == ["gguf"]
        assert listed[1]["aliases"] == {"fp32": "f32", "fp16": "f16", "q4": "int4"}
        assert "llama.cpp" in listed[0]["runtimes"]
        for quant in QUANTS:
            assert re.search(rf"^ {quant} ", run("targets").stdout, re.MULTILINE)
