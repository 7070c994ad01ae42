"""Checkpoints that Meta quantized: their integers and scales enter the graph, and everything that can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exporter.checkpoint import open_checkpoint
from exporter.checkpoint.head import resolve_tied_head
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.ir import interpreter
from exporter.ir.build import build
from exporter.ir.weights import float_rows, quantized_parts, quantized_weights
from exporter.names import expected_shapes
from exporter.source import SourceOptions, open_source
from exporter.tensors import RowTensor
from tests.checkpoint.refusals import refusal
from tests.fixtures.models import META_SPEC, TinySpec, torch_tensor, weights, write_meta
from tests.fixtures.prequantized import (
    BASE,
    GROUP,
    SPECS,
    Flavour,
    decoded_tensors,
    params,
    stored_tensors,
    write_prequantized,
)
from tests.ir.graphs import graph, token_ids

FLAVOURS = list(SPECS)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture
def folder(flavour: Flavour, tmp_path: Path) -> Path:
    return write_prequantized(tmp_path / flavour, SPECS[flavour])


def whole(tensor: RowTensor) -> np.ndarray[Any, Any]:
    return tensor.rows(0, tensor.n_rows)


def edit(folder: Path, **changes: Any) -> Path:
    """Change ``params.json``; ``None`` deletes an entry."""
    found = json.loads((folder / "params.json").read_text()) | changes
    (folder / "params.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Change the tensors of the file."""
    file = folder / "consolidated.00.pth"
    stored = torch.load(file, weights_only=True)
    change(stored)
    torch.save(stored, file)
    return folder


# --- What is read ------------------------------------------------------------------------------------------------


def test_the_graph_holds_the_very_integers_and_scales(folder: Path, flavour: Flavour) -> None:
    model = open_source(str(folder), SourceOptions()).graph()
    stored, seen = stored_tensors(SPECS[flavour]), set()
    for weight in quantized_weights(model):
        ints, scales, block = quantized_parts(weight)
        name = str(weight.name)
        seen.add(name)
        by_row = name in ("tok_embeddings.weight", "output.weight")
        assert (ints.dtype, block) == ((ir.DataType.INT8, BASE.dim) if by_row else (ir.DataType.INT4, GROUP))
        assert np.array_equal(whole(ints), stored[name])
        assert np.array_equal(whole(scales), stored[name.replace(".weight", ".scales")])
    assert seen == {name for name, array in stored.items() if array.dtype == np.int8}


def test_the_tensors_are_decoded_rows_for_everybody_else(folder: Path, flavour: Flavour) -> None:
    checkpoint = open_checkpoint(folder)
    expected = decoded_tensors(SPECS[flavour], np.float32)
    assert list(checkpoint.tensors) == list(expected_shapes(checkpoint.config))
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(tensor.rows_f32(0, tensor.n_rows), expected[name]), name


def test_params_json_tells_what_the_tensors_cannot(folder: Path, flavour: Flavour) -> None:
    config, spec = open_checkpoint(folder).config, SPECS[flavour]
    found = (config.ffn_hadamard, config.lora_rank, config.lora_scale)
    assert found == (spec.ffn_hadamard, spec.lora_rank, spec.lora_scale)


@pytest.mark.parametrize(("flavour", "word"), [("spinquant", "SpinQuant"), ("qlora", "rank 4, scaled by 1.5 (QLoRA)")])
def test_the_user_is_told(flavour: Flavour, word: str, tmp_path: Path) -> None:
    notes = open_checkpoint(write_prequantized(tmp_path, SPECS[flavour])).notes
    assert any("quantized by Meta" in note and word in note for note in notes)
    assert any(note.startswith("context length 8192 (llama 3.2, quantized by Meta)") for note in notes)


def test_the_function_is_nearly_that_of_the_model_before_it_was_quantized(folder: Path, flavour: Flavour) -> None:
    """Without the transform, or with other adaptors, less than half as near."""
    ids = token_ids(BASE.vocab_size)
    expected = interpreter.logits(graph(SPECS[flavour].replace(ffn_hadamard=False)), ids)
    source = open_source(str(folder), SourceOptions())
    right, wrong = source.graph(), source.config.replace(ffn_hadamard=False, lora_scale=-SPECS[flavour].lora_scale)
    other = build(wrong, source.checkpoint.tensors)
    near, far = (float(np.square(interpreter.logits(model, ids) - expected).mean()) for model in (right, other))
    assert near < 0.2
    assert far > 2 * near


def test_scales_of_embedding_and_head_may_have_one_axis_or_two(folder: Path, flavour: Flavour) -> None:
    """Both are around: ``[vocab, 1]`` in the published files, ``[vocab]`` in what executorch makes of them."""

    def flatten(stored: dict[str, torch.Tensor]) -> None:
        for name in ("tok_embeddings.scales", "output.scales"):
            stored[name] = stored[name][:, 0].clone()

    expected = decoded_tensors(SPECS[flavour], np.float32)["output.weight"]
    found = open_checkpoint(rewrite(folder, flatten)).tensors["output.weight"]
    assert np.array_equal(whole(found), expected)


def test_zero_points_of_zero_are_ignored(folder: Path, flavour: Flavour) -> None:
    def add(stored: dict[str, torch.Tensor]) -> None:
        stored |= {k.replace("scales", "zeros"): torch.zeros_like(v) for k, v in stored.items() if "scales" in k}

    checkpoint = open_checkpoint(rewrite(folder, add))
    assert set(checkpoint.tensors) == set(expected_shapes(checkpoint.config))
    whole(checkpoint.tensors["layers.0.attention.wq.weight"])


def test_scales_in_bfloat16_are_widened(folder: Path) -> None:
    def narrow(stored: dict[str, torch.Tensor]) -> None:
        stored |= {k: v.to(torch.bfloat16) for k, v in stored.items() if k.endswith(".scales")}

    name = "layers.1.feed_forward.w2.weight"
    parts = open_checkpoint(rewrite(folder, narrow)).tensors[name].quantized
    assert parts is not None
    assert whole(parts.scales).dtype == np.float32


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_tied_if_its_integers_and_scales_are_the_embeddings(tied: bool, tmp_path: Path) -> None:
    folder = write_prequantized(tmp_path, SPECS["qlora"].replace(tied=True))

    def other_integers_same_products(stored: dict[str, torch.Tensor]) -> None:
        row = int((stored["output.weight"].abs().max(dim=1).values < 64).nonzero()[0])
        stored["output.weight"][row] *= 2
        stored["output.scales"][row] /= 2

    def small_row(stored: dict[str, torch.Tensor]) -> None:
        for name in ("tok_embeddings.weight", "output.weight"):
            stored[name][3] = 1

    rewrite(folder, small_row)
    if not tied:
        rewrite(folder, other_integers_same_products)
    assert resolve_tied_head(open_checkpoint(folder)).config.tied_embeddings is tied


def test_opening_reads_no_weight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    made = RowTensor.__init__

    def watched(self: RowTensor, name: str, dtype: Any, shape: Any, read: Any, **rest: Any) -> None:
        made(self, name, dtype, shape, lambda a, b: (reads.append(name), read(a, b))[1], **rest)

    monkeypatch.setattr(RowTensor, "__init__", watched)
    tensors = open_checkpoint(folder).tensors
    assert not reads
    whole(tensors["norm.weight"])
    assert reads


def test_a_row_is_decoded_without_the_others(folder: Path, flavour: Flavour) -> None:
    tensor = open_checkpoint(folder).tensors["layers.1.feed_forward.w1.weight"]
    expected = decoded_tensors(SPECS[flavour], np.float32)["layers.1.feed_forward.w1.weight"]
    assert np.array_equal(tensor.rows(5, 7), expected[5:7])


# --- What can be wrong: params.json ------------------------------------------------------------------------------


def test_adaptors_beside_float_weights(tmp_path: Path) -> None:
    folder = edit(write_meta(tmp_path / "tiny"), lora_args={"rank": 16, "scale": 2.0})
    assert (
        "LoRA adaptors beside float weights" in refusal(UnsupportedModelError, lambda: open_checkpoint(folder)).message
    )


def test_another_scheme(folder: Path) -> None:
    args = params(BASE)["quantization_args"] | {"scheme": "fp8"}
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(edit(folder, quantization_args=args)))
    assert error.found == "fp8"
    assert error.hint


@pytest.mark.parametrize(
    ("args", "lora"),
    [
        ({}, None),
        ({"group_size": 0}, None),
        ({"group_size": "32"}, None),
        ({"group_size": 32}, {"rank": 4}),
        ({"group_size": 32}, {"rank": 0, "scale": 2.0}),
        ({"group_size": 32}, {"rank": 4, "scale": 0}),
    ],
    ids=str,
)
def test_numbers_that_describe_no_quantization(args: Any, lora: Any, folder: Path) -> None:
    args = {"spinquant": False} | args
    refusal(CheckpointError, lambda: open_checkpoint(edit(folder, quantization_args=args, lora_args=lora)))


@pytest.mark.parametrize("stated", [None, "yes"])
def test_nobody_says_whether_it_is_spinquant(stated: Any, tmp_path: Path) -> None:
    """Guessing wrong would give a file that passes every check against a reference that is wrong as well."""
    folder = write_prequantized(tmp_path, SPECS["spinquant"])
    args = {"group_size": GROUP} | ({} if stated is None else {"spinquant": stated})
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, quantization_args=args)))
    assert '"spinquant": true' in str(error.hint)


def test_plain_training_with_quantization_is_neither(tmp_path: Path) -> None:
    folder = write_prequantized(tmp_path, BASE)
    args = {"group_size": GROUP, "spinquant": False}
    config = open_checkpoint(edit(folder, quantization_args=args)).config
    assert (config.ffn_hadamard, config.lora_rank) == (False, 0)


def test_a_width_without_a_hadamard_transform(tmp_path: Path) -> None:
    folder = write_prequantized(tmp_path, BASE.replace(ffn_dim=192))
    args = {"group_size": GROUP, "spinquant": True}
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, quantization_args=args)))
    assert error.found == "192"


def test_adaptors_that_params_json_does_not_know(tmp_path: Path) -> None:
    folder = write_prequantized(tmp_path, SPECS["qlora"])
    args = {"group_size": GROUP, "spinquant": False}
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, lora_args=None, quantization_args=args)))
    assert "lora_args" in error.message
    assert "layers.0.attention.wq.adaptor.A.weight" in str(error.found)


def test_adaptors_of_another_rank(tmp_path: Path) -> None:
    folder = write_prequantized(tmp_path, SPECS["qlora"])
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, lora_args={"rank": 8, "scale": 2.0})))
    assert "adaptor.A.weight has the wrong shape" in error.message


def test_several_files(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "tiny", model_parallel=2)
    edit(folder, quantization_args={"group_size": GROUP, "spinquant": False})
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "several files" in error.message


def test_float_weights_that_are_said_to_be_quantized(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "tiny", META_SPEC)
    edit(folder, quantization_args={"group_size": GROUP, "spinquant": False})
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "scales" in error.message
    assert "tok_embeddings.weight" in str(error.expected)


# --- What can be wrong: tensors ----------------------------------------------------------------------------------

WQ = "layers.0.attention.wq"


def _replace(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    def replace(stored: dict[str, torch.Tensor]) -> None:
        stored[name] = change(stored[name])

    return replace


OPENING: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "no scales": (lambda stored: stored.pop(f"{WQ}.scales"), "scales"),
    "scales of a norm": (lambda stored: stored.update({"norm.scales": torch.ones(1)}), "scales"),
    "scales without their matrix": (lambda stored: stored.pop(f"{WQ}.weight"), "1 missing"),
    "scales in groups of 64": (_replace(f"{WQ}.scales", lambda t: t[:, ::2].clone()), f"tensor {WQ}.scales"),
    "scales of another matrix": (_replace(f"{WQ}.scales", lambda t: t[:32].clone()), f"tensor {WQ}.scales"),
    "scales that are integers": (_replace(f"{WQ}.scales", lambda t: t.to(torch.int8)), f"tensor {WQ}.scales"),
    "scales of the head in groups": (
        _replace("output.scales", lambda t: t.repeat(1, 2)),
        "tensor output.scales",
    ),
    "a matrix of floats": (_replace(f"{WQ}.weight", lambda t: t.float()), f"tensor {WQ}.weight"),
    "a norm of integers": (_replace("norm.weight", lambda t: t.to(torch.int8)), "tensor norm.weight"),
    "a tensor too many": (lambda stored: stored.update({f"{WQ}.bias": torch.ones(64)}), "nothing would use"),
}


@pytest.mark.parametrize("what", OPENING)
def test_tensors_that_do_not_fit(what: str, folder: Path) -> None:
    change, word = OPENING[what]
    error = refusal(CheckpointError, lambda: open_checkpoint(rewrite(folder, change)))
    assert word in error.message
    assert error.hint


def test_a_group_size_that_divides_no_row(folder: Path) -> None:
    args = {"group_size": 48, "spinquant": False}
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, quantization_args=args)))
    assert (error.expected, error.found) == ("columns in multiples of 48", "64")


def _set(name: str, row: int, column: int, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(stored: dict[str, torch.Tensor]) -> None:
        stored[name][row, column] = value

    return change


READING: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "an integer of five bits": (_set(f"{WQ}.weight", 5, 7, 8), "-8 to 7"),
    "a negative one": (_set(f"{WQ}.weight", 5, 7, -9), "-8 to 7"),
    "a scale of zero": (_set(f"{WQ}.scales", 5, 1, 0.0), "positive, normal"),
    "a negative scale": (_set(f"{WQ}.scales", 5, 1, -0.01), "positive, normal"),
    "a scale that is subnormal": (_set(f"{WQ}.scales", 5, 1, 1e-40), "positive, normal"),
    "a scale that is not a number": (_set(f"{WQ}.scales", 5, 1, float("nan")), "positive, normal"),
    "an infinite scale": (_set(f"{WQ}.scales", 5, 1, float("inf")), "finite weights"),
    "a zero point": (
        lambda stored: stored.update({f"{WQ}.zeros": torch.ones_like(stored[f"{WQ}.scales"])}),
        "symmetric quantization",
    ),
}


@pytest.mark.parametrize("what", READING)
def test_values_that_no_runtime_could_use_are_found_when_they_are_read(what: str, folder: Path) -> None:
    change, expected = READING[what]
    source = open_source(str(rewrite(folder, change)), SourceOptions())
    weight = next(w for w in quantized_weights(source.graph()) if w.name == f"{WQ}.weight")
    error = refusal(CheckpointError, lambda: whole(float_rows(weight)))
    assert expected in str(error.expected)
    assert error.hint


def test_a_shape_that_params_json_contradicts(folder: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, hidden_dim=256)))
    assert "wrong shape" in error.message


def test_integers_need_quantization_args(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "tiny")
    ints = torch_tensor(weights(TinySpec(head_dim=16))["output.weight"]).to(torch.int8)
    error = refusal(
        CheckpointError, lambda: open_checkpoint(rewrite(folder, lambda s: s.update({"output.weight": ints})))
    )
    assert error.found == "torch.int8"
