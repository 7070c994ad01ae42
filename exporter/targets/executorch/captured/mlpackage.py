"""What a delegate of Core ML holds: the ``.mlpackage`` that ExecuTorch's runtime unpacks, and the tensors in it.

Its program is a protobuf that coremltools reads (``coremltools/proto``); the tensors lie in ``weight.bin``, each behind
the offset that the program gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError
from exporter.targets.executorch.captured.quiet import quiet
from exporter.tensors import Array

_WEIGHTS = "weights/weight.bin"


def tensors(payload: Array, folder: Path) -> Iterator[Array]:
    """Every tensor of a delegate, one at a time; ``folder`` is where the package is unpacked.

    Raises:
        CheckpointError: If the delegate is none of Core ML's.
    """
    with quiet():
        import coremltools as ct
        from coremltools.libmilstoragepython import _BlobStorageReader
        from executorch.backends.apple.coreml import executorchcoreml

        if not executorchcoreml.unflatten_directory_contents(payload.tobytes(), str(folder)):
            raise CheckpointError("the delegate is not a Core ML package", found=f"{payload.nbytes} bytes")
        package = next(folder.rglob("*.mlpackage"))
        spec = ct.utils.load_spec(str(package))
    reader = _BlobStorageReader(str(next(package.rglob(Path(_WEIGHTS).name))))
    kinds = {
        getattr(ct.proto.MIL_pb2, name): getattr(reader, f"read_{kind}_data")
        for name, kind in (("FLOAT16", "fp16"), ("FLOAT32", "float"), ("INT8", "int8"), ("INT4", "int4"))
    }
    for kind, offset in _blobs(spec):
        if kind in kinds:
            yield kinds[kind](offset)


def _blobs(spec: Any) -> Iterator[tuple[int, int]]:
    """Type and offset of each."""
    for function in spec.mlProgram.functions.values():
        for operation in function.block_specializations[function.opset].operations:
            values = [*operation.attributes.values()]
            values += [b.value for argument in operation.inputs.values() for b in argument.arguments if not b.name]
            for value in values:
                if value.HasField("blobFileValue"):
                    yield value.type.tensorType.dataType, value.blobFileValue.offset
