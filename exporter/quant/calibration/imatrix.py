"""llama.cpp's importance matrix as GGUF: the energies of a calibration under llama.cpp's names.

For each weight ``<name>.in_sum2`` float32 ``[1, in]``, the sum of squares of each input over all tokens, and
``<name>.counts`` float32 ``[1, 1]``, how many tokens there were; ``llama-quantize --imatrix`` divides one by the
other. Source: llama.cpp ``tools/imatrix/imatrix.cpp`` (``save_imatrix``) and ``tools/quantize/quantize.cpp``
(``load_imatrix``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from exporter.checkpoint.gguf_file import read_gguf
from exporter.errors import CalibrationError, CheckpointError
from exporter.names import name_map
from exporter.quant.calibration.file import Origin

Floats = npt.NDArray[np.float32]

SUMS, COUNTS = ".in_sum2", ".counts"


def sums(energy: Floats, n_tokens: int) -> Floats:
    """Float32 sums that give energies back, bit for bit, when they are divided by the number of tokens.

    There are such sums if the energies were made by such a division.
    """
    count = np.float32(n_tokens)
    nearest = energy * count
    for candidate in (np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(np.inf))):
        nearest = np.where(nearest / count == energy, nearest, candidate)
    return nearest


def write(path: Path, energies: Mapping[str, Floats], origin: Origin) -> None:
    """Write an importance matrix that ``llama-quantize --imatrix`` reads."""
    layers = [int(name.split(".")[1]) for name in energies if name.startswith("layers.")]
    names = name_map("canonical", "gguf", max(layers, default=-1) + 1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [origin.text])
    # An imported matrix tells no number of tokens: its energies are sums over one.
    n_tokens = origin.n_tokens or 1
    writer.add_uint32("imatrix.chunk_count", n_tokens // max(1, origin.window))
    writer.add_uint32("imatrix.chunk_size", origin.window)
    for name, energy in energies.items():
        writer.add_tensor(names[name] + SUMS, sums(energy, n_tokens)[None])
        writer.add_tensor(names[name] + COUNTS, np.array([[n_tokens]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path, shapes: Mapping[str, tuple[int, ...]], n_layers: int) -> dict[str, Floats]:
    """Canonical weight name -> energies, of an importance matrix made by llama.cpp or :func:`write`.

    Args:
        path: Of the file.
        shapes: Canonical name -> shape of every weight of the model that it must fit.
        n_layers: Of that model.

    Raises:
        CalibrationError: If it is no importance matrix, another model's, or holds what no energy is.
    """
    try:
        file = read_gguf(path)
    except CheckpointError as error:
        raise CalibrationError(f"{path} is no importance matrix", found=error.message) from None
    stored = {
        name: np.array(file.data[t.offset : t.offset + t.nbytes].view("<f4"))
        for name, t in file.tensors.items()
        if t.type == gguf.GGMLQuantizationType.F32
    }
    names = name_map("gguf", "canonical", n_layers)
    found: dict[str, Floats] = {}
    for name, total in stored.items():
        if not name.endswith(SUMS):
            continue
        weight = names.get(name.removesuffix(SUMS))
        if weight is None or weight not in shapes or shapes[weight][-1] != len(total):
            raise CalibrationError(
                f"{path} is the importance matrix of another model",
                expected="the weights of the model that is exported",
                found=f"{name} with {len(total)} inputs",
            )
        count = stored.get(name.removesuffix(SUMS) + COUNTS, np.zeros(1, np.float32))[0]
        energy = total / count if count > 0 else np.ones_like(total)
        if not np.isfinite(energy).all() or (energy < 0).any():
            raise CalibrationError(f"{path}: the energies of {name} are not finite and non-negative")
        found[weight] = energy
    if not found:
        raise CalibrationError(f"{path} is no importance matrix", expected=f"tensors named *{SUMS}", found="none")
    return found
