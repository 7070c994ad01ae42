"""Processors that QEMU is told to be, and the command line of a program on one of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import exporter
from scripts.arm.system import System

WORKER = "exporter.targets.executorch.worker"

TRACED = f"""\
import os, runpy, shutil, sys
runpy.run_module({WORKER!r}, run_name="__main__")
shutil.copyfile("/proc/self/maps", os.path.join(sys.argv[1], f"{{os.getpid()}}.maps"))
"""
"""The worker, which says at its end where its libraries were."""


NONE: frozenset[str] = frozenset()
MATRICES = frozenset({"dotprod", "i8mm"})


@dataclass(frozen=True)
class Processor:
    """One that QEMU knows.

    Attributes:
        name: What QEMU calls it, properties included.
        implementer: Of its main ID register, as ``/proc/cpuinfo`` has it.
        part: The same.
        extensions: Row -> which of :data:`scripts.arm.trace.EXTENSIONS` its kernels use. A prompt, which is many
            tokens at a time, and an answer have kernels of their own.
    """

    name: str
    implementer: int
    part: int
    extensions: Mapping[str, frozenset[str]]


PROCESSORS = {
    processor.name: processor
    for processor in (
        # Armv8.0
        Processor("cortex-a53", 0x41, 0xD03, {"f32": NONE, "int8": NONE, "int4": NONE}),
        # Armv8.2 with SVE, but without dot products of bytes
        Processor("a64fx", 0x46, 0x001, {"f32": NONE, "int8": NONE, "int4": NONE}),
        # Armv8.2 with dot products: phones of 2018 to 2021
        Processor(
            "cortex-a76", 0x41, 0xD0B, {"f32": NONE, "int8": frozenset({"dotprod"}), "int4": frozenset({"dotprod"})}
        ),
        # With products of matrices of bytes: phones since
        Processor("max,sme=off", 0x00, 0x051, {"f32": NONE, "int8": MATRICES, "int4": MATRICES}),
        # With SME: iPhones since 2024
        Processor("max", 0x00, 0x051, {"f32": frozenset({"sme"}), "int8": frozenset({"sme"}), "int4": MATRICES}),
    )
}
"""Numbers of the ID register: QEMU ``target/arm/cpu64.c``, ``midr``; QEMU's own processor has the part number 0x051."""

USUAL = ("a64fx", "cortex-a76", "max,sme=off")


class Emulation:
    """A system on a processor.

    Args:
        system: What to run.
        processor: What to run it on.
        folder: An empty folder; traces of what ran go to ``traces`` in it.
    """

    def __init__(self, system: System, processor: Processor, folder: Path) -> None:
        self.traces = folder / "traces"
        self.traces.mkdir(parents=True)
        self._system = system
        self._processor = processor
        self._root = folder / "root"
        self._show_root()

    def _show_root(self) -> None:
        """The system's files, and a ``/proc/cpuinfo``.

        Before version 8.1, QEMU shows a program the host's, whose x86 processors torch takes for no processors at all.
        """
        Path(self._root, "proc").mkdir(parents=True)
        for path in self._system.root.iterdir():
            Path(self._root, path.name).symlink_to(path)
        entries = (
            f"processor\t: {i}\nCPU implementer\t: {self._processor.implementer:#04x}\nCPU architecture: 8\n"
            f"CPU variant\t: 0x0\nCPU part\t: {self._processor.part:#05x}\nCPU revision\t: 0\n\n"
            for i in range(os.sysconf("SC_NPROCESSORS_CONF"))
        )
        Path(self._root, "proc", "cpuinfo").write_text("".join(entries), encoding="ascii")

    def worker(self) -> Sequence[str]:
        """The command line of :mod:`exporter.targets.executorch.worker`, traced."""
        packages = os.pathsep.join((str(self._system.packages), str(Path(exporter.__file__).parents[1])))
        return [
            str(self._system.emulator), "-cpu", self._processor.name, "-L", str(self._root),
            "-E", f"PYTHONPATH={packages}", "-d", "in_asm", "-D", str(self.traces / "%d.log"),
            str(self._system.python), "-P", "-W", "ignore", "-c", TRACED, str(self.traces),
        ]  # fmt: skip
