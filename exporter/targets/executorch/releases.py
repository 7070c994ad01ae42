"""What the published builds of ExecuTorch can run: libraries of kernels and delegates, by what an app links.

The wheel is asked by a test. The phones' packages follow from executorch's sources: which libraries
``scripts/build_apple_frameworks.sh`` puts into each framework of the Swift package (its ``Package.swift`` names them
for Swift), and which ``scripts/build_android_library.sh`` links into the one library of the AAR, as
``tools/cmake/preset/android.cmake`` chooses them. Names of kernels: ``exporter/data``, made from the wheel by
``scripts/executorch_kernels.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import exporter

VERSION = "1.4.0"
"""The release that all of this is about."""

KERNELS_FILE = Path(exporter.__file__).parent / "data" / f"executorch-kernels-{VERSION}.json"


@cache
def kernels() -> Mapping[str, frozenset[str]]:
    """Library -> the operators, ``namespace::name.overload``, that it registers kernels for."""
    libraries: dict[str, list[str]] = json.loads(KERNELS_FILE.read_text(encoding="utf-8"))
    return {name: frozenset(operators) for name, operators in libraries.items()}


@dataclass(frozen=True)
class Part:
    """What an app links or loads on its own.

    Attributes:
        name: Product of a Swift package, Gradle coordinates, or Python module.
        libraries: Keys of :func:`kernels`.
        delegates: Ids of the backends that it registers.
        always: Whether no program runs without it.
    """

    name: str
    libraries: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()
    always: bool = False

    @property
    def provides(self) -> frozenset[str]:
        """Its operators and delegates."""
        return frozenset(self.delegates).union(*(kernels()[library] for library in self.libraries))


@dataclass(frozen=True)
class Release:
    """A published build of ExecuTorch.

    Attributes:
        key: Of :data:`RELEASES`.
        title: What it is, for messages.
        parts: All that it comes in.
    """

    key: str
    title: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return f"{self.key}-{VERSION}"


_AAR_LIBRARIES = ("prim_ops", "portable", "optimized", "quantized", "llm")

RELEASES: dict[str, Release] = {
    release.key: release
    for release in (
        Release(
            "wheel", f"executorch {VERSION} for Python",
            (
                Part(
                    "executorch.extension.pybindings._portable_lib", ("prim_ops", "portable", "optimized"),
                    # The first three need an SDK as well, and are there on Linux on x86-64 only.
                    ("OpenvinoBackend", "QnnBackend", "VgfBackend", "XnnpackBackend"), always=True,
                ),
                Part("executorch.kernels.quantized", ("quantized",)),
                Part("executorch.extension.llm.custom_ops.custom_ops", ("llm", "llm_aot")),
            ),
        ),
        Release(
            "ios", f"the Swift package of ExecuTorch {VERSION} (branch swiftpm-{VERSION})",
            (
                Part("executorch", ("prim_ops",), always=True),
                Part("executorch_llm", always=True),
                Part("backend_coreml", delegates=("CoreMLBackend",)),
                Part("backend_mps", delegates=("MPSBackend",)),
                Part("backend_xnnpack", delegates=("XnnpackBackend",)),
                Part("kernels_llm", ("llm",)),
                Part("kernels_optimized", ("portable", "optimized")),
                Part("kernels_quantized", ("quantized",)),
                Part("kernels_torchao", ("torchao",)),
            ),
        ),
        Release(
            "android", f"the Android library of ExecuTorch {VERSION}",
            (Part(f"org.pytorch:executorch-android:{VERSION}", _AAR_LIBRARIES, ("XnnpackBackend",), always=True),),
        ),
        Release(
            "android-vulkan", f"the Android library of ExecuTorch {VERSION} with Vulkan",
            (
                Part(
                    f"org.pytorch:executorch-android-vulkan:{VERSION}", _AAR_LIBRARIES,
                    ("VulkanBackend", "XnnpackBackend"), always=True,
                ),
            ),
        ),
    )
}  # fmt: skip
"""Key -> release."""
