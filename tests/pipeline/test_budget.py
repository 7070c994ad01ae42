"""``--target-size``, ``--bits-per-weight`` and ``--plan``: files that hit a size, in every target's real runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from exporter import targets
from exporter.names import name_map
from exporter.quant.allocation import losses
from exporter.quant.allocation.types import matrices
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from tests.fixtures.models import TinySpec, write_huggingface
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import Outcome, manifest, run, sha256, tensors

pytestmark = needs_llama_cpp

SPEC = TinySpec(dim=128, head_dim=32, ffn_dim=256, n_layers=2, max_seq_len=512)
TOKENS = ("--calibration-tokens", 2048)
SIZE = 330_000
"""Between the smallest GGUF of that model and the largest."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("source") / "tiny", SPEC)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = write_huggingface(tmp_path_factory.mktemp("source") / "tied", SPEC.replace(tied=True))
    return open_source(str(folder), SourceOptions())


def export(
    source: Path, out: Path, *options: object, target: str = "gguf", quant: str = "int4", check: bool = False
) -> Outcome:
    verify = "--verify" if check else "--no-verify"
    return run("export", source, "--target", target, "--quant", quant, "--out", out, verify, "--jobs", 1, *options)


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    outcome = export(source, out, "--target-size", f"{SIZE / 1e6}M", *TOKENS, check=True)
    assert outcome.code == 0, outcome.stderr
    return out


def artifact(out: Path) -> dict[str, Any]:
    (found,) = manifest(out)["artifacts"]
    return dict(found)


def plan_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / artifact(out)["allocation"]["path"]).read_text()))


def measured(out: Path) -> Path:
    """The file that says what each type costs: with it, a budget needs no text."""
    return out / artifact(out)["allocation"]["losses"]


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_has_the_size_that_was_asked_for_and_is_proved(exported: Path) -> None:
    size = (exported / "gguf/tiny-INT4.gguf").stat().st_size
    assert 0.99 * SIZE <= size <= SIZE
    found = artifact(exported)
    assert found["parity"]["verdict"] == "pass"
    assert found["allocation"]["bytes"] == size
    assert found["allocation"]["budget"] == {"nbytes": SIZE}


@pytest.mark.slow
def test_the_file_has_the_types_of_the_plan_and_several_of_them(exported: Path) -> None:
    types = plan_of(exported)["types"]
    stored = {name: kind for name, (kind, _, _) in tensors(exported / "gguf/tiny-INT4.gguf").items()}
    for ours, theirs in name_map("canonical", "gguf", SPEC.n_layers).items():
        if ours in types:
            assert stored[theirs] == {"int4": "Q4_0", "int8": "Q8_0"}.get(types[ours], types[ours].upper())
    assert len(set(types.values())) > 1
    assert len(types) == 7 * SPEC.n_layers + 2


@pytest.mark.parametrize(
    ("target", "quant"),
    [("gguf", "int4"), ("gguf", "q4_k_m"), ("onnx", "int4"), ("onnx", "q4f16"), ("executorch", "int4")],
)
def test_what_types_take_is_what_files_hold(target: str, quant: str, tied: Source) -> None:
    if not all(targets.get(target).runtime_versions().values()):
        pytest.skip(f"{target} is not installed")
    kinds, known = targets.get(target).quant(quant).types, matrices(tied.graph())
    random = Random(0)
    sizes = []
    for _ in range(2):
        chosen = {
            name: random.choice([kind for kind in kinds.values() if not kind.misfit(matrix.shape, matrix.roles)])
            for name, matrix in known.items()
        }
        named = {name: kind.name for name, kind in chosen.items()}
        plan = targets.get(target).plan(tied.subject(), quant, Options(types=named))
        ours = sum(kind.nbytes(known[name].shape, known[name].roles) for name, kind in chosen.items())
        sizes.append(plan.weight_bytes - ours)
    assert sizes[0] == sizes[1] < 8 * SPEC.dim * (2 * SPEC.n_layers + 1), "norms and an epsilon"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "quant", "bits"), [("gguf", "q4_k_m", 5.5), ("onnx", "int4", 6.0), ("executorch", "int4", 5.0)]
)
def test_every_target_hits_a_budget_and_its_runtime_agrees(
    target: str, quant: str, bits: float, source: Path, tmp_path: Path
) -> None:
    if not all(targets.get(target).runtime_versions().values()):
        pytest.skip(f"{target} is not installed")
    budget = ("--bits-per-weight", bits, *TOKENS)
    outcome = export(source, tmp_path / "out", *budget, target=target, quant=quant, check=True)
    assert outcome.code == 0, outcome.stderr
    found = artifact(tmp_path / "out")
    assert 0.99 * bits <= found["bits_per_weight"] <= bits
    assert len(found["allocation"]["matrices"]) > 1
    assert found["parity"]["verdict"] == "pass"


# --- proved again ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_verify_takes_the_types_from_the_folder(exported: Path) -> None:
    outcome = run("verify", exported)
    assert outcome.code == 0, outcome.stderr


@pytest.mark.slow
def test_a_file_with_other_types_than_its_plan_fails(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    document, plan = manifest(copy), plan_of(copy)
    name = next(name for name, kind in plan["types"].items() if kind == "int4")
    plan["types"][name] = "int8"
    path = copy / "plans/gguf-int4.json"
    path.write_text(json.dumps(plan))
    assert run("verify", copy).code == 2, "the file is not the one that was exported"
    for shared in document["shared_files"]:
        if shared["target"] == "plans":
            shared |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (copy / "manifest.json").write_text(json.dumps(document))
    outcome = run("verify", copy)
    assert outcome.code == 3
    assert "weights: FAILED" in outcome.stderr


# --- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_another_budget_measures_nothing_again(
    exported: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "measure", lambda *_: pytest.fail("measured again"))
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    options = ("--target-size", SIZE - 10_000, *TOKENS, "--dry-run", "--format", "json")
    (found,) = export(source, out, *options).json["artifacts"]
    assert 0.99 * (SIZE - 10_000) <= found["files"][0]["bytes"] <= SIZE - 10_000
    assert found["plan"]["types"].keys() == plan_of(exported)["types"].keys()
    assert found["plan"]["made"]["predicted_kl"] > artifact(exported)["allocation"]["predicted_kl"]
    shown = export(source, out, "--target-size", SIZE, *TOKENS, "--dry-run").stdout
    assert "feed_forward.w2" in shown


@pytest.mark.slow
def test_several_targets_have_a_plan_each_on_the_same_losses(exported: Path, source: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    options = ("--target", "onnx", "--bits-per-weight", 6.5, *TOKENS, "--dry-run", "--format", "json")
    found = {one["target"]: one for one in export(source, out, *options).json["artifacts"]}
    assert found.keys() == {"gguf", "onnx"}
    for one in found.values():
        assert 0.99 * 6.5 <= one["bits_per_weight"] <= 6.5
    assert "int4-g64" in found["onnx"]["plan"]["types"].values()


@pytest.mark.slow
def test_a_plan_can_be_used_again_and_edited(exported: Path, source: Path, tmp_path: Path) -> None:
    plan = plan_of(exported)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    text = exported / artifact(exported)["calibration"]["path"]
    options = ("--plan", tmp_path / "plan.json", "--calibrate", text)
    assert export(source, tmp_path / "again", *options).code == 0
    assert sha256(tmp_path / "again/gguf/tiny-INT4.gguf") == sha256(exported / "gguf/tiny-INT4.gguf")

    edited = {**plan, "types": {"output.weight": "q5_0", "layers.0.attention.wv.weight": "int8"}}
    (tmp_path / "plan.json").write_text(json.dumps(edited))
    outcome = export(source, tmp_path / "edited", "--plan", tmp_path / "plan.json", check=True)
    assert outcome.code == 0, outcome.stderr
    stored = {name: kind for name, (kind, _, _) in tensors(tmp_path / "edited/gguf/tiny-INT4.gguf").items()}
    assert (stored["output.weight"], stored["blk.0.attn_v.weight"]) == ("Q5_0", "Q8_0")
    assert stored["blk.1.attn_v.weight"] == "Q4_0", "what a plan leaves out is stored as the row has it"


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--target-size", 200_000), "does not get as small as that"),
        (("--target-size", "1G"), "does not get as large as that"),
        (("--bits-per-weight", 4), "does not get as small as that"),
        (("--bits-per-weight", 9), "does not get as large as that"),
    ],
)
def test_a_budget_that_no_choice_meets_is_refused(
    option: tuple[object, ...], message: str, exported: Path, source: Path, tmp_path: Path
) -> None:
    outcome = export(source, tmp_path / "out", *option, "--calibrate", measured(exported))
    assert outcome.code == 2
    assert message in outcome.error["error"]
    assert " to " in outcome.error["expected"], "the sizes that are possible"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_types_that_were_not_measured_need_a_text(exported: Path, source: Path, tmp_path: Path) -> None:
    options = ("--calibrate", measured(exported), "--bits-per-weight", 6)
    outcome = export(source, tmp_path / "out", *options, quant="q4_k_m")
    assert outcome.code == 2
    assert "does not say what q4_0 costs" in outcome.error["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant": "q4_k_m"}, "is a plan for gguf q4_k_m alone"),
        ({"target": "onnx"}, "is a plan for onnx int4 alone"),
        ({"schema": 2}, "is no plan"),
        ({"types": ["int4"]}, "types must map names of weights to names of types"),
        ({"types": {"layers.9.attention.wq.weight": "int4"}}, "has no matrix layers.9.attention.wq.weight"),
        ({"types": {"output.weight": "int3"}}, "cannot be stored as int3 here"),
        ({"types": {"output.weight": "q4_k"}}, "128 columns are no multiple of 256"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(
    changes: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    plan = {"schema": 1, "target": "gguf", "quant": "int4", "types": {}} | changes
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    outcome = export(source, tmp_path / "out", "--plan", tmp_path / "plan.json")
    assert outcome.code == 2
    assert message in outcome.error["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target-size", "1M", "--bits-per-weight", 5), "--target-size and --bits-per-weight exclude each other"),
        (("--plan", "nowhere.json"), "nowhere.json cannot be read"),
        (("--quant", "f16", "--bits-per-weight", 5), "f16 stores all matrices alike"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: tuple[object, ...], message: str, source: Path, tmp_path: Path
) -> None:
    outcome = export(source, tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.error["error"]
