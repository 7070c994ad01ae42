"""What executes the matrices of a program: ExecuTorch's backends, and what each needs to be built for.

Delegate ids are the names under which executorch's backends register (the ``BackendDetails`` classes below
``executorch/backends``); what is missing is what those packages of the 1.4.0 wheel import and do not find.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import TargetError


@dataclass(frozen=True)
class Backend:
    """A row of the matrix that ``exporter targets`` prints.

    Attributes:
        name: What ``--backend`` takes.
        devices: Where it runs.
        delegate: The id that its part of a program carries; ``None`` if all of it are the program's own kernels.
        runs_here: Whether the Python wheel can run it, so that its numbers are compared before they leave.
        missing: What it would take to build programs for it; empty if they can be built.
    """

    name: str
    devices: str
    delegate: str | None
    runs_here: bool
    missing: str = ""


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("xnnpack", "CPUs of phones and desktops", "XnnpackBackend", runs_here=True),
        Backend("portable", "any CPU, slowly: reference kernels", None, runs_here=True),
        Backend("coreml", "Apple's Neural Engine, GPU and CPU", "CoreMLBackend", runs_here=False),
        Backend("vulkan", "GPUs of Android phones", "VulkanBackend", runs_here=False),
        Backend(
            "qualcomm", "Hexagon NPUs (Snapdragon 888 to 8 Elite Gen 5)", "QnnBackend", runs_here=False,
            missing="Qualcomm's AI Engine Direct SDK 2.37.0.250724 at $QNN_SDK_ROOT, with its lib/x86_64-linux-clang "
            "in $LD_LIBRARY_PATH, and the Python package py-cpuinfo; the wheel has the compiler's adaptor "
            "(PyQnnManagerAdaptor, x86-64 Linux only) and not the libraries that it loads",
        ),
        Backend(
            "mediatek", "NeuroPilot NPUs (Dimensity 9300, 9400, 9500)", "NeuropilotBackend", runs_here=False,
            missing="MediaTek's NeuroPilot Express SDK: its Python packages mtk_converter 8.13.0 (Python 3.10 only) "
            "and mtk_neuron 8.2.23, which are in no public registry",
        ),
        Backend(
            "ethos-u", "Arm's Ethos-U55, U65 and U85 beside Cortex-M", "EthosUBackend", runs_here=False,
            missing="the Python packages ethos-u-vela 5.1.0 and tosa-tools 2026.5.0 "
            "(pip install 'executorch[ethos-u]'); and an int8 graph of static shapes: it has no cache and no attention "
            "that the LLM runner could drive",
        ),
        Backend(
            "samsung", "Exynos NPUs (Exynos 2500, 2600)", "EnnBackend", runs_here=False,
            missing="Samsung's Exynos AI LiteCore SDK at $EXYNOS_AI_LITECORE_ROOT, and the package "
            "executorch.backends.samsung.python that backends/samsung/build.sh makes with it; the wheel lacks both",
        ),
        Backend(
            "mlx", "GPUs of Macs and iPhones, through MLX", "MLXBackend", runs_here=False,
            missing="macOS on Apple silicon: the Linux wheel lacks the generated schema "
            "(backends/mlx/serialization/mlx_graph_schema.py), which only a build of executorch with MLX makes",
        ),
        Backend(
            "mps", "GPUs of Macs and iPhones, through Metal Performance Shaders", "MPSBackend", runs_here=False,
            missing="nothing that would last: executorch has deprecated it; use coreml",
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
