"""Other makers of ONNX models, each in an environment of its own, and what they make of a Hugging Face folder.

python -m benchmarks.onnx_peers     # the environments, in .cache/peers: a few minutes and 2.6 GB
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import CACHE, ROOT
from benchmarks.measure import Usage, measure

ENVIRONMENTS = ROOT / ".cache" / "peers"
REQUIREMENTS = ROOT / "benchmarks" / "peers"
"""One ``<environment>.txt`` each: GenAI's builder and Optimum want different releases of transformers."""
_RECIPE = str(REQUIREMENTS / "transformers_js.py")


@dataclass(frozen=True)
class Peer:
    """A maker of one type of file.

    Attributes:
        name: As it stands in a table.
        environment: Name of its requirements.
        arguments: For the environment's Python; ``{model}`` and ``{out}`` are folders.
        base: What it starts from instead of the Hugging Face folder.
    """

    name: str
    environment: str
    arguments: tuple[str, ...]
    base: Peer | None = None

    def build(self, model: Path, out: Path) -> Usage:
        """Make ``out/model.onnx``; of a peer with a base, only its own work is counted."""
        folder = model if self.base is None else self.base.kept(model)
        arguments = [argument.format(model=folder, out=out) for argument in self.arguments]
        # The folder has everything; a look into the hub for more would only wait for the network.
        return measure(["env", "HF_HUB_OFFLINE=1", str(interpreter(self.environment)), *arguments], quiet=True)

    def kept(self, model: Path) -> Path:
        """The folder of a model that is built once and kept."""
        folder = CACHE / "peers" / model.name / self.name.replace(" ", "-")
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            self.build(model, unfinished)
            unfinished.rename(folder)
        return folder


_CACHE = ("-c", "{out}/cache")
GENAI_INT4 = Peer(
    "genai int4",
    "genai",
    ("-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu", "-i", "{model}", "-o", "{out}", *_CACHE),
)
OPTIMUM = Peer("optimum fp32", "optimum", (_RECIPE, "export", "{model}", "{out}"))
RECIPE = {
    mode: Peer(f"recipe {mode}", "optimum", (_RECIPE, "quantize", "{model}", "{out}", mode), OPTIMUM)
    for mode in ("q4", "q4f16", "q8", "uint8", "fp16")
}
"""Transformers.js' former scripts, by the name of the variant."""


def model_bytes(folder: Path) -> int:
    """Size of a model: its graph and its weights, wherever they lie below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*.onnx*"))


def interpreter(environment: str) -> Path:
    """The Python of an environment, which is made when it is not there or its requirements have changed."""
    folder, wanted = ENVIRONMENTS / environment, (REQUIREMENTS / f"{environment}.txt").read_text()
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "-r", str(REQUIREMENTS / f"{environment}.txt")], check=True)
        installed.write_text(wanted)
    return python


def main() -> None:
    for requirements in sorted(REQUIREMENTS.glob("*.txt")):
        print(interpreter(requirements.stem))


if __name__ == "__main__":
    main()
