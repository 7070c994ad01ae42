"""The iOS sample: the releases that it links, and that none of its files is beyond ``make ios-check``."""

from __future__ import annotations

from typing import Any

import yaml

from exporter import targets
from exporter.targets.executorch import wheel
from exporter.targets.executorch.releases import RELEASES
from scripts.ios.sample import DECLARATIONS, SAMPLE, WITHOUT_SCREENS

PROJECT: dict[str, Any] = yaml.safe_load((SAMPLE / "project.yml").read_text())
SETTINGS = PROJECT["settings"]["base"]
APP = PROJECT["targets"]["GuardedChat"]


def test_it_links_the_releases_that_artifacts_are_proved_in() -> None:
    package = PROJECT["packages"]["executorch"]
    assert SETTINGS["EXECUTORCH_VERSION"] == wheel.RELEASE
    assert targets.get("executorch").packages["swift"] == f"{package['url']}#{package['branch']}"
    assert targets.get("gguf").packages == {"llama.cpp": SETTINGS["LLAMA_CPP_BUILD"]}


def test_the_app_knows_these_releases_by_the_names_in_its_info() -> None:
    runtimes = (SAMPLE / "App/Engines/Runtimes.swift").read_text()
    for key, setting in (("ExecuTorchVersion", "EXECUTORCH_VERSION"), ("LlamaCppBuild", "LLAMA_CPP_BUILD")):
        assert APP["info"]["properties"][key] == f"$({setting})"
        assert f'versionKey: "{key}"' in runtimes


def test_it_links_products_that_exist_and_leaves_none_of_their_kernels_out() -> None:
    (products,) = (found["products"] for found in APP["dependencies"] if found.get("package") == "executorch")
    assert set(products) <= {part.name for part in RELEASES["ios"].parts}
    assert {"backend_xnnpack", "kernels_llm", "kernels_optimized", "kernels_quantized"} <= set(products)
    assert APP["settings"]["base"]["OTHER_LDFLAGS"] == "-all_load"


def test_what_imports_no_apple_framework_is_compiled_by_the_check() -> None:
    declared = {path.stem for path in DECLARATIONS.glob("*.swift")}
    here = {"Dispatch", "Foundation", "GuardedChatCore", "Observation", "llama"} | declared
    for path in (SAMPLE / "App").rglob("*.swift"):
        imported = {line.split()[1] for line in path.read_text().splitlines() if line.startswith("import ")}
        assert (imported <= here) == (path.parent.name in WITHOUT_SCREENS), path.name
