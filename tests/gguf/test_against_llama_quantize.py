"""A native export equals what llama.cpp's own tools make of the same checkpoint, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from exporter.names import expected_shapes
from exporter.quant.calibration import file, imatrix
from exporter.quant.calibration.file import Calibration, Origin
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.capabilities import QUANTS
from exporter.targets.gguf.metadata import file_type
from exporter.targets.gguf.target import GGUF
from tests.fixtures.downloads import smollm2_gguf
from tests.fixtures.models import TinySpec, write_huggingface
from tests.oracles import llama_quantize

NATIVE = [name for name, quant in QUANTS.items() if not quant.portable]

N_TOKENS = 3000

SPECS = {
    "superblocks, untied, 9 layers": TinySpec(dim=256, ffn_dim=512, n_layers=9, head_dim=64, n_heads=4, n_kv_heads=1),
    "superblocks, tied, bf16": TinySpec(dim=256, ffn_dim=256, n_layers=4, head_dim=64, tied=True, dtype="bfloat16"),
    "columns that fill no superblock": TinySpec(dim=96, ffn_dim=160, n_layers=3, head_dim=32, tied=True),
}


def export(model: Path, quant: str, out: Path, calibration: Calibration | None = None) -> Path:
    source = open_source(str(model), SourceOptions())
    files = GGUF.plan(source.subject(calibration), quant, Options()).write(out, lambda *_: None)
    return out / files[0].path


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        t.name: (t.tensor_type.name, tuple(int(d) for d in t.shape), t.data.tobytes())
        for t in gguf.GGUFReader(path).tensors
    }


def compare(model: Path, quant: str, folder: Path) -> None:
    if reason := llama_quantize.why_unavailable():
        pytest.skip(reason)
    full = export(model, "f32", folder)
    reference = folder / "reference.gguf"
    llama_quantize.quantize(full, reference, file_type(QUANTS[quant].ftype))
    ours, theirs = tensors(export(model, quant, folder)), tensors(reference)
    assert set(ours) == set(theirs)  # llama-quantize sorts them, converters do not
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different


@pytest.mark.parametrize("quant", NATIVE)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_native_types_of_a_tiny_model_equal_llama_quantize(spec: TinySpec, quant: str, tmp_path: Path) -> None:
    compare(write_huggingface(tmp_path / "model", spec), quant, tmp_path)


@pytest.mark.parametrize("quant", [name for name in NATIVE if QUANTS[name].calibrated])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_native_types_with_an_importance_matrix_equal_llama_quantize(
    spec: TinySpec, quant: str, tmp_path: Path
) -> None:
    if reason := llama_quantize.why_unavailable():
        pytest.skip(reason)
    model = write_huggingface(tmp_path / "model", spec)
    origin = Origin("model", "data", "random", N_TOKENS, 512, "imatrix")
    energies = random_energies(spec)
    matrix, stored = tmp_path / "imatrix.gguf", tmp_path / "calibration.safetensors"
    imatrix.write(matrix, energies, origin)
    file.write(stored, {file.ENERGY + name: energy for name, energy in energies.items()}, origin)
    reference = tmp_path / "reference.gguf"
    llama_quantize.quantize(export(model, "f32", tmp_path), reference, file_type(QUANTS[quant].ftype), imatrix=matrix)
    ours, theirs = tensors(export(model, quant, tmp_path, Calibration(stored))), tensors(reference)
    assert set(ours) == set(theirs)
    assert not [name for name in ours if ours[name] != theirs[name]]
    plain = tensors(export(model, quant, tmp_path / "plain"))
    assert (ours != plain) == any(kind not in ("Q8_0", "F32") for kind, _, _ in ours.values()), "the matrix matters"


def random_energies(spec: TinySpec) -> dict[str, npt.NDArray[np.float32]]:
    """Energies of every linear but the head, as llama-imatrix measures them."""
    rng = np.random.default_rng(5)
    shapes = expected_shapes(spec.config)
    linears = {name: dims for name, dims in shapes.items() if name.startswith("layers.") and len(dims) == 2}
    sums = {name: np.exp(2 * rng.standard_normal(dims[1])).astype(np.float32) for name, dims in linears.items()}
    return {name: total / np.float32(N_TOKENS) for name, total in sums.items()}


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["q4_k_m", "q8_0"])
def test_native_types_of_the_demo_model_equal_llama_quantize(quant: str, tmp_path: Path) -> None:
    compare(smollm2_gguf(), quant, tmp_path)
