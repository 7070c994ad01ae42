"""What executes the matrices of a program: ExecuTorch's backends, and what each needs to be built for.

Delegate ids are the names under which executorch's backends register (the ``BackendDetails`` classes below
``executorch/backends``). What is missing is what those packages of the 1.4.0 wheel import or load and do not find; the
versions are those of its metadata and sources, MediaTek's those of executorch's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import TargetError
from exporter.targets.base import Backend as Row
from exporter.targets.executorch.capabilities import ROWS


@dataclass(frozen=True)
class Backend(Row):
    """A backend of ExecuTorch.

    Attributes:
        delegate: The id that its part of a program carries; ``None`` if all of it are the program's own kernels.
        phones: Which of :data:`exporter.targets.executorch.releases.RELEASES` for phones can run its programs.
    """

    delegate: str | None = None
    phones: tuple[str, ...] = ()

    @property
    def releases(self) -> tuple[str, ...]:
        """Keys of every release that must be able to run its programs."""
        return ("wheel", *self.phones) if self.runs_here else self.phones


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "xnnpack", "CPUs of phones and desktops", runs_here=True, quants=tuple(ROWS["xnnpack"]),
            delegate="XnnpackBackend", phones=("ios", "android"),
        ),
        Backend(
            "portable", "any CPU, slowly: reference kernels", runs_here=True, quants=tuple(ROWS["portable"]),
            phones=("ios", "android"),
        ),
        Backend(
            "coreml", "Neural Engine, GPU and CPU of Apple's devices", runs_here=False, quants=tuple(ROWS["coreml"]),
            delegate="CoreMLBackend", phones=("ios",),
        ),
        Backend(
            "vulkan", "GPUs of Android phones", runs_here=False, quants=tuple(ROWS["vulkan"]),
            delegate="VulkanBackend", phones=("android-vulkan",),
        ),
        Backend(
            "qualcomm", "Hexagon NPUs, Snapdragon 888 and later", runs_here=False, delegate="QnnBackend",
            missing="Qualcomm's AI Engine Direct SDK 2.37.0.250724 at $QNN_SDK_ROOT, with its lib/x86_64-linux-clang "
            "in $LD_LIBRARY_PATH, and the Python package py-cpuinfo; the wheel has the adaptor that calls the SDK "
            "(PyQnnManagerAdaptor, x86-64 Linux only) and not the libraries that it loads",
        ),
        Backend(
            "mediatek", "NeuroPilot NPUs, Dimensity 9300 and later", runs_here=False, delegate="NeuropilotBackend",
            missing="MediaTek's NeuroPilot Express SDK: its Python packages mtk_converter 8.13.0 (for Python 3.10) and "
            "mtk_neuron 8.2.23, which no package index has; and Android libraries built with it, as no published "
            "runtime has this delegate",
        ),
        Backend(
            "ethos-u", "Arm's NPUs for microcontrollers: Ethos-U55, U65, U85", runs_here=False,
            delegate="EthosUBackend",
            missing="the Python packages ethos-u-vela 5.1.0 and tosa-tools 2026.5.0 (pip install "
            "'executorch[ethos-u]'), and a graph of static shapes and int8 activations: without a cache that grows",
        ),
        Backend(
            "samsung", "Exynos NPUs, Exynos 2500 and 2600", runs_here=False, delegate="EnnBackend",
            missing="Samsung's Exynos AI LiteCore SDK at $EXYNOS_AI_LITECORE_ROOT, and the package "
            "executorch.backends.samsung.python, which backends/samsung/build.sh of executorch's sources makes with "
            "it; the wheel has neither",
        ),
        Backend(
            "mlx", "GPUs of Apple silicon", runs_here=False, delegate="MLXBackend",
            missing="executorch built from source with MLX: the Linux wheel lacks its generated schema "
            "(backends/mlx/serialization/mlx_graph_schema.py), and the Swift package this delegate",
        ),
        Backend(
            "mps", "GPUs of Apple's devices", runs_here=False, delegate="MPSBackend",
            missing="a backend that stays: executorch has deprecated this one in favour of coreml",
        ),
    )
}  # fmt: skip
"""Backend name -> what it is."""

DEFAULT = "xnnpack"


def get(name: str) -> Backend:
    """The backend of that name.

    Raises:
        TargetError: If there is none, or programs for it cannot be built; the hint then says what is missing.
    """
    buildable = ", ".join(backend.name for backend in BACKENDS.values() if not backend.missing)
    if name not in BACKENDS:
        raise TargetError(f"unknown backend {name!r}", expected=buildable, found=name, hint="run: exporter targets")
    backend = BACKENDS[name]
    if backend.missing:
        raise TargetError(
            f"programs for the backend {name} cannot be built here",
            expected=buildable,
            found=name,
            hint=f"it would take {backend.missing}",
        )
    return backend
