"""Which operators ExecuTorch has kernels for, library by library, from the installed wheel.

    python -m scripts.executorch_kernels                      # prints exporter/data/executorch-kernels-<version>.json
    python -m scripts.executorch_kernels --in libexecutorch.so --release android

The second form looks for the operators of a release's table in a native library, where their names are stored as they
are registered; it prints those that are not there. It tells what a library of one's own lacks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from exporter.targets.executorch import wheel, worker
from exporter.targets.executorch.releases import RELEASES

YAML = {
    "portable": Path("kernels/portable/functions.yaml"),
    "quantized": Path("kernels/quantized/quantized.yaml"),
}
"""Libraries whose sources list their operators."""

TORCHAO = [
    *(f"_{kind}_{bits}bit{end}" for kind, end in (
        ("linear_8bit_act", "_weight"), ("embedding", ""), ("shared_embedding", "")) for bits in range(1, 9)),
    *(f"_linear_groupwise_{bits}bit_weight_with_lut" for bits in range(1, 5)),
]  # fmt: skip
"""Not in the wheel: ``torchao/csrc/cpu/shared_kernels``, files ending in ``_executorch.cpp``."""


def listed(yaml_file: Path) -> set[str]:
    """Operators of a list; those without a namespace are ATen's."""
    import yaml

    entries = yaml.safe_load(wheel.path(yaml_file).read_text(encoding="utf-8"))
    names = {entry.get("op") or entry["func"].split("(")[0] for entry in entries}
    return {name if "::" in name else f"aten::{name}" for name in names}


def registered() -> tuple[set[str], set[str], set[str]]:
    """Operators that the wheel's bindings register, and what each library for the LLM runner adds."""
    import torch
    from executorch.extension.pybindings import _portable_lib as bindings

    found = [set(bindings._get_operator_names())]
    for library in worker.LIBRARIES:
        torch.ops.load_library(next(wheel.path(library.parent).glob(library.name)))
        found.append(set(bindings._get_operator_names()).difference(*found))
    bindings_, quantized, llm = found
    return bindings_, quantized, llm


def libraries() -> dict[str, list[str]]:
    """Library -> its operators, sorted.

    Raises:
        AssertionError: If what the wheel registers is not what its sources list.
    """
    bindings, quantized, llm = registered()
    portable = listed(YAML["portable"])
    rest = bindings - portable
    # Kernels write into an ``out``; what does not is the runtime's own (kernels/prim_ops/register_prim_ops.cpp).
    prim_ops = {name for name in rest if name.startswith("executorch_prim::") or "out" not in name.partition(".")[2]}
    # Compiled for Python only (extension/llm/custom_ops/CMakeLists.txt, op_tile_crop.cpp).
    llm_aot = {name for name in llm if not name.startswith("llama::")}
    assert portable <= bindings, portable - bindings
    assert quantized == listed(YAML["quantized"]), quantized
    found = {
        "prim_ops": prim_ops,
        "portable": portable,
        "optimized": rest - prim_ops,
        "quantized": quantized,
        "llm": llm - llm_aot,
        "llm_aot": llm_aot,
        "torchao": {f"torchao::{name}.out" for name in TORCHAO},
    }
    return {name: sorted(operators) for name, operators in found.items()}


def absent(library: Path, release: str) -> list[str]:
    """Operators of a release whose names a native library does not hold."""
    data = library.read_bytes()
    names = {n for part in RELEASES[release].parts for n in part.provides.difference(part.delegates)}
    return sorted(name for name in names if name.encode() + b"\0" not in data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--in", dest="library", type=Path, help="a native library: .so, or a framework's binary")
    parser.add_argument("--release", choices=RELEASES, default="android")
    arguments = parser.parse_args()
    if arguments.library:
        print("\n".join(absent(arguments.library, arguments.release)))
    else:
        print(json.dumps(libraries(), indent=1))


if __name__ == "__main__":
    main()
