"""The file types: every tensor gets llama-quantize's type and llama-quantize's bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import TargetError
from exporter.targets.gguf import encode
from exporter.targets.gguf.types import FILE_TYPES, tensor_types
from tests.fixtures.models import TinySpec, write_gguf
from tests.oracles import llama_quantize

needs_llama_quantize = pytest.mark.skipif(
    llama_quantize.why_unavailable() is not None, reason=str(llama_quantize.why_unavailable())
)

Written = Callable[[TinySpec], Path]

MIXTURES = ("Q4_K_S", "Q4_K_M", "Q5_K_M")

WIDE = TinySpec(dim=256, n_heads=8, n_kv_heads=2, head_dim=32, ffn_dim=512, n_layers=3, vocab_size=600)
DEEP = TinySpec(dim=32, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=32)

MODELS: dict[str, TinySpec] = {
    "untied": WIDE,
    "tied": WIDE.replace(tied=True, n_kv_heads=1),
    "tied, 96 columns": TinySpec(dim=96, ffn_dim=160, n_kv_heads=4, tied=True),
    "untied, 160 columns": TinySpec(dim=160, ffn_dim=256, n_kv_heads=1),
    "an FFN that no block fits": TinySpec(dim=64, ffn_dim=80),
    "a width that no block fits": TinySpec(dim=48, ffn_dim=64, tied=True),
    "one layer": DEEP.replace(n_layers=1),
    "16 layers": DEEP.replace(n_layers=16, tied=True),
    "22 layers": DEEP.replace(n_layers=22, n_kv_heads=4),
    "33 layers": DEEP.replace(n_layers=33),
    "the 70B's 80 layers and grouped queries": DEEP.replace(n_layers=80, n_kv_heads=1),
    "the 65B's 80 layers": DEEP.replace(n_layers=80, n_kv_heads=4),
}


def _ftypes(spec: TinySpec) -> tuple[str, ...]:
    return MIXTURES if spec.dim == DEEP.dim else tuple(FILE_TYPES)


CASES = [(model, ftype) for model, spec in MODELS.items() for ftype in _ftypes(spec)]


def ftype_number(ftype: str) -> int:
    return int(gguf.LlamaFileType["ALL_F32" if ftype == "F32" else f"MOSTLY_{ftype}"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """``written(spec)``: a file with bfloat16 matrices, written once."""
    folder = tmp_path_factory.mktemp("models")
    return functools.cache(lambda spec: write_gguf(folder / f"{hash(spec)}.gguf", spec))


def our_types(ftype: str, spec: TinySpec, reader: gguf.GGUFReader) -> dict[str, str]:
    shapes = {tensor.name: tuple(int(d) for d in reversed(tensor.shape)) for tensor in reader.tensors}
    return tensor_types(ftype, shapes, n_layers=spec.n_layers, n_heads=spec.n_heads, n_kv_heads=spec.n_kv_heads)


def float_rows(tensor: gguf.ReaderTensor) -> npt.NDArray[np.float32]:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


@needs_llama_quantize
@pytest.mark.parametrize(("model", "ftype"), CASES)
def test_types_and_bytes_equal_llama_quantize(model: str, ftype: str, written: Written, tmp_path: Path) -> None:
    spec = MODELS[model]
    source = written(spec)
    reader = gguf.GGUFReader(source)
    ours = our_types(ftype, spec, reader)
    llama_quantize.quantize(source, tmp_path / "quantized.gguf", ftype_number(ftype))
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "quantized.gguf").tensors}
    assert ours == {name: tensor.tensor_type.name for name, tensor in theirs.items()}
    for tensor in reader.tensors:
        encoded = encode.encode_rows(float_rows(tensor), ours[tensor.name])
        assert encoded.tobytes() == theirs[tensor.name].data.tobytes(), tensor.name


@needs_llama_quantize
def test_a_file_without_the_mixture_is_told_apart(written: Written, tmp_path: Path) -> None:
    source = written(WIDE)
    llama_quantize.quantize(source, tmp_path / "pure.gguf", ftype_number("Q4_K_M"), pure=True)
    pure = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "pure.gguf").tensors}
    ours = our_types("Q4_K_M", WIDE, gguf.GGUFReader(source))
    assert ours != pure
    assert {name for name in ours if ours[name] != pure[name]} == {
        "output.weight",
        "blk.2.attn_v.weight",
        "blk.2.ffn_down.weight",
    }


# --- the rules, read aloud -----------------------------------------------------------------------------------------


def llama_shapes(
    n_layers: int, *, tied: bool = True, dim: int = 2048, ffn_dim: int = 8192
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (128256, dim), "output_norm.weight": (dim,)}
    if not tied:
        shapes["output.weight"] = (128256, dim)
    for layer in range(n_layers):
        block = f"blk.{layer}"
        shapes |= {f"{block}.attn_q.weight": (dim, dim), f"{block}.attn_v.weight": (512, dim)}
        shapes |= {f"{block}.ffn_down.weight": (dim, ffn_dim), f"{block}.attn_norm.weight": (dim,)}
    return shapes


def types_of_1b(ftype: str, **shape: int | bool) -> dict[str, str]:
    return tensor_types(ftype, llama_shapes(16, **shape), n_layers=16, n_heads=32, n_kv_heads=8)  # type: ignore[arg-type]


def test_q4_k_m_gives_half_of_the_value_and_down_projections_six_bits() -> None:
    types = types_of_1b("Q4_K_M")
    better = [layer for layer in range(16) if types[f"blk.{layer}.attn_v.weight"] == "Q6_K"]
    assert better == [0, 1, 4, 7, 10, 13, 14, 15]
    assert all(types[f"blk.{i}.ffn_down.weight"] == types[f"blk.{i}.attn_v.weight"] for i in range(16))
    assert {types[f"blk.{i}.attn_q.weight"] for i in range(16)} == {"Q4_K"}


def test_the_head_gets_six_bits_and_takes_a_tied_embedding_along() -> None:
    assert types_of_1b("Q4_K_M", tied=True)["token_embd.weight"] == "Q6_K"
    untied = types_of_1b("Q4_K_M", tied=False)
    assert (untied["token_embd.weight"], untied["output.weight"]) == ("Q4_K", "Q6_K")


@pytest.mark.parametrize("ftype", FILE_TYPES)
def test_norms_stay_float32(ftype: str) -> None:
    types = types_of_1b(ftype)
    assert {types["output_norm.weight"], types["blk.3.attn_norm.weight"]} == {"F32"}


def test_an_unknown_file_type_is_refused() -> None:
    with pytest.raises(TargetError, match="IQ2_XS") as caught:
        types_of_1b("IQ2_XS")
    assert "Q4_K_M" in str(caught.value.expected)


@pytest.mark.parametrize("ftype", ["Q8_0", "Q4_0", "Q4_K_M"])
def test_columns_that_fill_no_blocks_become_float16(ftype: str) -> None:
    assert types_of_1b(ftype, dim=48)["token_embd.weight"] == "F16"


@given(
    ftype=st.sampled_from(sorted(FILE_TYPES)),
    n_layers=st.integers(1, 90),
    n_kv_heads=st.sampled_from([1, 4, 32]),
    dim=st.integers(1, 600),
    ffn_dim=st.integers(1, 600),
    tied=st.booleans(),
)
def test_every_tensor_of_any_model_gets_a_type_that_fits_its_columns(
    ftype: str, n_layers: int, n_kv_heads: int, dim: int, ffn_dim: int, tied: bool
) -> None:
    shapes = llama_shapes(n_layers, tied=tied, dim=dim, ffn_dim=ffn_dim)
    types = tensor_types(ftype, shapes, n_layers=n_layers, n_heads=32, n_kv_heads=n_kv_heads)
    assert types.keys() == shapes.keys()
    assert all(shape[-1] % encode.block_size(types[name]) == 0 for name, shape in shapes.items())
