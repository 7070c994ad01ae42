"""Before the phone: which operators and delegates a program calls, and what each published runtime makes of them."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.artifact import MANIFEST
from exporter.errors import TargetError
from exporter.targets.executorch import backends, program, wheel
from exporter.targets.executorch.backends import BACKENDS, Backend
from exporter.targets.executorch.preflight import Needs, links, missing, needs, require
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.releases import KERNELS_FILE, RELEASES, VERSION, Release, kernels
from tests.executorch.support import SPEC, Folder, export
from tests.executorch.test_pipeline import export as export_in_full
from tests.pipeline.harness import run

IOS, ANDROID, WHEEL = RELEASES["ios"], RELEASES["android"], RELEASES["wheel"]
LLAMA = Needs(
    ("aten::embedding.out", "executorch_prim::add.Scalar", "llama::custom_sdpa.out", "llama::update_cache.out"),
    ("XnnpackBackend",),
)


def without(release: Release, part: str) -> Release:
    assert part in {p.name for p in release.parts}
    return dataclasses.replace(release, parts=tuple(p for p in release.parts if p.name != part))


# --- The tables ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_is_what_the_installed_wheel_registers() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "scripts.executorch_kernels"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout == KERNELS_FILE.read_text()


def test_the_delegates_of_the_wheel_are_those_that_it_registers() -> None:
    from executorch.extension.pybindings import _portable_lib as bindings

    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the table is that of Linux on x86-64")
    assert sorted(bindings._get_registered_backend_names()) == [d for part in WHEEL.parts for d in part.delegates]


def test_the_tables_are_those_of_the_pinned_release() -> None:
    assert set(wheel.CHECKED) == {VERSION}


def test_no_operator_is_in_two_libraries() -> None:
    assert sum(map(len, kernels().values())) == len(frozenset().union(*kernels().values()))


# --- The check -----------------------------------------------------------------------------------------------------


def test_an_app_for_ios_links_the_products_that_have_what_the_program_calls() -> None:
    assert links(LLAMA, IOS) == [
        "executorch", "executorch_llm", "backend_xnnpack", "kernels_llm", "kernels_optimized",
    ]  # fmt: skip
    quantized = dataclasses.replace(LLAMA, operators=("quantized_decomposed::embedding_4bit.dtype_out",))
    assert "kernels_quantized" in links(quantized, IOS)
    assert "kernels_llm" not in links(quantized, IOS)


def test_the_message_names_what_is_missing_and_the_hint_where_it_is() -> None:
    with pytest.raises(TargetError) as refusal:
        require(LLAMA, [ANDROID, without(IOS, "kernels_llm")])
    error = refusal.value
    assert "Swift package" in error.message
    assert error.found == "llama::custom_sdpa.out, llama::update_cache.out"
    assert f"kernels_llm (ios-{VERSION})" in str(error.hint)


def test_an_operator_that_nobody_has_is_named() -> None:
    with pytest.raises(TargetError, match=r"llama::flash\.out") as refusal:
        require(Needs(("llama::flash.out",), ()), [WHEEL])
    assert str(refusal.value.hint).startswith(f"no published build of ExecuTorch {VERSION} has llama::flash.out")


def test_a_delegate_that_a_runtime_lacks_is_named() -> None:
    with pytest.raises(TargetError, match="CoreMLBackend") as refusal:
        require(Needs((), ("CoreMLBackend",)), [ANDROID])
    assert refusal.value.hint == f"link backend_coreml (ios-{VERSION}) for CoreMLBackend"


NAMES = st.frozensets(st.sampled_from(sorted(frozenset().union(*(p.provides for p in IOS.parts)))), max_size=8)


@given(NAMES)
def test_what_the_links_have_is_enough(names: frozenset[str]) -> None:
    wanted = Needs(tuple(sorted(names)), ())
    linked = set(links(wanted, IOS))
    assert not missing(wanted, dataclasses.replace(IOS, parts=tuple(p for p in IOS.parts if p.name in linked)))


@given(NAMES)
def test_nothing_is_linked_in_vain(names: frozenset[str]) -> None:
    wanted = Needs(tuple(sorted(names)), ())
    for part in IOS.parts:
        if part.name in links(wanted, IOS) and not part.always:
            assert missing(wanted, without(IOS, part.name))


# --- Programs ------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_the_file_calls(huggingface_folder: Folder, tmp_path: Path) -> None:
    made = export(huggingface_folder(SPEC), tmp_path, "int4")
    written = needs(PteFile(made.path).plans.values())
    assert made.plan.requires["operators"] == list(written.operators)
    assert made.plan.requires["delegates"] == list(written.delegates) == ["XnnpackBackend"]
    assert "quantized_decomposed::embedding_byte.dtype_out" in written.operators
    assert "aten::_local_scalar_dense" in written.operators  # registered without an overload


def test_the_manifest_lists_it(huggingface_folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export_in_full(huggingface_folder(SPEC), out, "int8", options=("--no-verify",)).code == 0
    (artifact,) = json.loads((out / MANIFEST).read_text())["artifacts"]
    required = artifact["requires"]
    assert set(required["runtimes"]) == {release.name for release in (WHEEL, IOS, ANDROID)}
    assert required["runtimes"][ANDROID.name] == [f"org.pytorch:executorch-android:{VERSION}"]
    assert {"kernels_llm", "kernels_quantized"} < set(required["runtimes"][IOS.name])
    assert "llama::custom_sdpa.out" in required["operators"]


def test_an_export_is_refused_before_anything_is_written(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = program.Program.kernel

    def renamed(self: program.Program, name: str, *rest: Any) -> None:
        kernel(self, "llama::flash" if name == "llama::custom_sdpa" else name, *rest)

    monkeypatch.setattr(program.Program, "kernel", renamed)
    out = tmp_path / "out"
    outcome = export_in_full(huggingface_folder(SPEC), out, "f32", options=("--no-verify",))
    assert outcome.code == 2
    assert "llama::flash.out" in outcome.stderr
    assert not out.exists()


def test_a_table_without_the_attention_refuses_every_program(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RELEASES, "ios", without(IOS, "kernels_llm"))
    outcome = export_in_full(huggingface_folder(SPEC), tmp_path / "out", "f32", options=("--no-verify",))
    assert outcome.code == 2
    assert "it does not have llama::custom_sdpa.out, llama::update_cache.out" in outcome.stderr


LOAD = """
import sys
import torch
from exporter.targets.executorch import worker
worker.LIBRARIES = [library for library in worker.LIBRARIES if sys.argv[2] not in str(library)]
worker.open_program(sys.argv[1]).run_method("forward", (torch.tensor([[1]]), torch.tensor([0])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["f32", "int8"])
@pytest.mark.parametrize(
    ("part", "library"),
    [("executorch.kernels.quantized", "quantized"), ("executorch.extension.llm.custom_ops.custom_ops", "custom_ops")],
)
def test_the_runtime_misses_what_the_table_says_it_misses(
    quant: str, part: str, library: str, huggingface_folder: Folder, tmp_path: Path
) -> None:
    """ExecuTorch without one library of kernels names in its log what the table without that part names."""
    made = export(huggingface_folder(SPEC), tmp_path, quant)
    child = [sys.executable, "-c", LOAD, str(made.path), library]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    expected = missing(needs(PteFile(made.path).plans.values()), without(WHEEL, part))
    assert sorted(set(re.findall(r"Missing operator: \[\d+\] (\S+)", done.stderr))) == expected
    assert ("0x14" in done.stderr) == bool(expected) == bool(done.returncode)


def test_the_runtime_refuses_a_delegate_that_the_table_does_not_have(
    huggingface_folder: Folder, tmp_path: Path
) -> None:
    made = export(huggingface_folder(SPEC), tmp_path)
    made.path.write_bytes(made.path.read_bytes().replace(b"XnnpackBackend", b"CuneiformChips"))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(made.path), "-"], capture_output=True, text=True, check=False
    )
    assert missing(needs(PteFile(made.path).plans.values()), WHEEL) == ["CuneiformChips"]
    assert "Backend CuneiformChips is not registered" in done.stderr
    assert "0x20" in done.stderr


# --- Backends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [b for b in BACKENDS.values() if b.missing], ids=lambda b: b.name)
def test_a_backend_that_cannot_be_built_says_what_it_would_take(backend: Backend) -> None:
    with pytest.raises(TargetError, match=f"backend {backend.name} cannot be built") as refusal:
        backends.get(backend.name)
    assert refusal.value.hint == f"it would take {backend.missing}"


def test_what_is_missing_are_names_and_versions_that_one_can_look_for() -> None:
    assert "SDK 2.37.0.250724 at $QNN_SDK_ROOT" in BACKENDS["qualcomm"].missing
    assert "mtk_converter 8.13.0" in BACKENDS["mediatek"].missing
    assert "ethos-u-vela 5.1.0" in BACKENDS["ethos-u"].missing


def test_an_unknown_backend_is_refused_with_those_that_can_be_built() -> None:
    with pytest.raises(TargetError, match="unknown backend 'tpu'") as refusal:
        backends.get("tpu")
    assert str(refusal.value.expected).split(", ") == [b.name for b in BACKENDS.values() if not b.missing]
    assert backends.get(backends.DEFAULT).name in str(refusal.value.expected)


@pytest.mark.parametrize("backend", [b for b in BACKENDS.values() if b.phones], ids=lambda b: b.name)
def test_every_release_that_a_backend_names_has_its_delegate(backend: Backend) -> None:
    wanted = Needs((), () if backend.delegate is None else (backend.delegate,))
    require(wanted, [RELEASES[key] for key in backend.releases])


def test_targets_prints_the_matrix() -> None:
    printed = run("targets").stdout
    for backend in BACKENDS.values():
        assert re.search(rf"^ {backend.name} .*{'no' if backend.missing else 'yes'} ", printed, re.MULTILINE)
        assert backend.missing in printed
    listed = {t["name"]: t["backends"] for t in run("targets", "--format", "json").json["targets"]}
    assert [b["name"] for b in listed["executorch"]] == list(BACKENDS)
    assert listed["gguf"] == []
