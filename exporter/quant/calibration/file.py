"""``calibration.safetensors``: what a run found out, to be used again and to prove artifacts with.

Tensors:

    energy.<weight>          float32 [in]              mean square of the weight's inputs in the source
    factor.<activation>      float32 [width]           what equalisation divides the activation by
    loss.<type>.<weight>     float32 [1]               what storing it so costs (``exporter/quant/allocation``)
    int4g32.<weight>.ints    uint8 [out, in / 2]       two integers a byte (``exporter/quant/packing.py``)
    int4g32.<weight>.scales  float16 [out, in / 32]    exact: the scales are portable

with the scheme's bits and group size in the last two names (8-bit integers are int8 ``[out, in]``). The metadata entry
``exporter.calibration`` is a JSON object: see :class:`Origin`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.checkpoint.mapped import map_file
from exporter.errors import CalibrationError
from exporter.quant.packing import pack_4, unpack_4
from exporter.quant.schemes import Scheme
from exporter.tensors import RowTensor, contiguous_bytes

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

ENERGY, FACTOR, LOSS = "energy.", "factor.", "loss."
METADATA = "exporter.calibration"
_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "U8": np.dtype("u1"), "I8": np.dtype("i1")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Origin:
    """Where a calibration comes from.

    Attributes:
        model: SHA-256 over the source's files and the options that change what is read of them.
        data: SHA-256 over the token ids.
        text: What the user named: a path, or ``builtin``.
        n_tokens: How many tokens there were.
        window: Tokens of one context.
        method: Name of the rounding method, with everything that its integers depend on.
    """

    model: str
    data: str
    text: str
    n_tokens: int
    window: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def key(self) -> str:
        """A short name for everything that decides the integers."""
        decisive = [self.model, self.data, self.window, self.method]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def scheme_key(scheme: Scheme) -> str:
    """The scheme's name in tensor names; the group tells it from others of as many bits."""
    return f"int{scheme.bits}g{scheme.group_size}"


def integers(weight: str, scheme: Scheme, ints: npt.NDArray[np.int8], scales: Floats) -> dict[str, Array]:
    """Chosen integers as tensors of the file."""
    prefix = f"{scheme_key(scheme)}.{weight}"
    packed = pack_4(ints) if scheme.bits == 4 else ints
    return {f"{prefix}.ints": packed, f"{prefix}.scales": scales.astype(np.float16)}


def decoded(name: str, ints: npt.NDArray[np.int8], scales: Floats) -> RowTensor:
    """``ints * scales``, float32."""
    n_groups = scales.shape[1]

    def read(start: int, stop: int) -> Floats:
        blocks = ints[start:stop].reshape(stop - start, n_groups, -1).astype(np.float32)
        return (blocks * scales[start:stop, :, None]).reshape(stop - start, -1)

    return RowTensor(name, ir.DataType.FLOAT, ints.shape, read)


def write(path: Path, tensors: Mapping[str, Array], origin: Origin | None = None) -> None:
    """Write a file of tensors; it appears when it is complete."""
    header: dict[str, Any] = {}
    if origin is not None:
        header["__metadata__"] = {METADATA: json.dumps(origin.to_dict(), sort_keys=True)}
    at = 0
    for name, array in tensors.items():
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            out.write(contiguous_bytes(array))
    temporary.replace(path)


def join(path: Path, parts: Sequence[Path], origin: Origin) -> None:
    """Write one file with the tensors of several; of equal names the first counts. No tensor is in memory."""
    found: dict[str, Array] = {}
    for part in parts:
        found = _read(part) | found
    write(path, found, origin)


def _open(path: Path) -> tuple[dict[str, Any], Array, int]:
    """Header, bytes, and where the tensors begin."""
    try:
        data = map_file(path)
        (length,) = struct.unpack("<Q", data[:8].tobytes())
        header = json.loads(data[8 : 8 + length].tobytes())
        last = max((e["data_offsets"][1] for name, e in header.items() if name != "__metadata__"), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            f"{path} is not a calibration file", expected="safetensors written by --calibrate", found=str(error)
        ) from None
    if len(data) != 8 + length + last:
        raise CalibrationError(
            f"{path} is truncated", expected=f"{8 + length + last:,} bytes", found=f"{len(data):,} bytes",
            hint="calibrate again",
        )  # fmt: skip
    return header, data, 8 + length


def _read(path: Path) -> dict[str, Array]:
    """The tensors of a file, mapped."""
    header, data, start = _open(path)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (start + offset for offset in entry["data_offsets"])
            dtype: Any = _DTYPES[entry["dtype"]]
            found[name] = data[begin:end].view(dtype).reshape(entry["shape"])
    return found


def factors(path: Path) -> dict[str, Floats]:
    """The equalisation factors of a file, by activation."""
    return {n.removeprefix(FACTOR): np.array(array) for n, array in _read(path).items() if n.startswith(FACTOR)}


class Calibration:
    """A calibration, read from its file as it is needed.

    Args:
        path: Of the file.

    Raises:
        CalibrationError: If it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header, _, _ = _open(path)
        try:
            self.origin = Origin(**json.loads(header["__metadata__"][METADATA]))
        except (KeyError, TypeError, ValueError):
            raise CalibrationError(
                f"{path} is no calibration", expected=f"a metadata entry {METADATA}", hint="write one with --calibrate"
            ) from None

    @cached_property
    def _tensors(self) -> dict[str, Array]:
        return _read(self.path)

    @cached_property
    def factors(self) -> Mapping[str, Floats]:
        """Activation -> what its channels are divided by."""
        return factors(self.path)

    @cached_property
    def energies(self) -> Mapping[str, Floats]:
        """Weight -> mean square of each of its inputs in the source, float32 ``[in]``."""
        return {n.removeprefix(ENERGY): array for n, array in self._tensors.items() if n.startswith(ENERGY)}

    @cached_property
    def losses(self) -> Mapping[str, Mapping[str, float]]:
        """Weight -> type -> what storing it so costs, nats a token; empty if it was not measured."""
        found: dict[str, dict[str, float]] = {}
        for name, array in self._tensors.items():
            if name.startswith(LOSS):
                _, kind, weight = name.split(".", 2)
                found.setdefault(weight, {})[kind] = float(array[0])
        return found

    def has(self, scheme: Scheme) -> bool:
        """Whether integers of a scheme were chosen."""
        return any(name.startswith(scheme_key(scheme) + ".") for name in self._tensors)

    def holds(self, mix: Mapping[str, Scheme]) -> bool:
        """Whether each weight has integers of its own scheme."""
        return all(f"{scheme_key(scheme)}.{weight}.ints" in self._tensors for weight, scheme in mix.items())

    def integers(self, weight: str, scheme: Scheme) -> tuple[RowTensor, RowTensor] | None:
        """Integers and scales chosen for a weight, as :func:`exporter.quant.blocks.quantize_tensor` returns them."""
        prefix = f"{scheme_key(scheme)}.{weight}"
        if f"{prefix}.ints" not in self._tensors:
            return None
        stored, scales = (self._tensors[f"{prefix}.{part}"] for part in ("ints", "scales"))
        n_cols = stored.shape[1] * (8 // scheme.bits)

        def read(start: int, stop: int) -> Array:
            return unpack_4(stored[start:stop]) if scheme.bits == 4 else stored[start:stop]

        return (
            RowTensor(f"{weight}.ints", scheme.dtype, (len(stored), n_cols), read),
            RowTensor(f"{weight}.scales", ir.DataType.FLOAT, scales.shape, lambda a, b: scales[a:b].astype(np.float32)),
        )
