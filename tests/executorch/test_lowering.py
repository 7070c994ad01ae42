"""Which program comes out: what a delegate holds, what is shared, what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from exporter.errors import RuntimeUnavailableError, TargetError
from exporter.ir import ops
from exporter.ir.spec import vocabulary
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import EMBEDDING, HEAD, INT4, INT8, INT8_ROWS, LINEAR, Recipe, Rule
from exporter.targets.executorch import lower as lowering
from exporter.targets.executorch import wheel
from exporter.targets.executorch.capabilities import INT4_RECIPE, QUANTS, ROWS
from exporter.targets.executorch.engine import Engine
from exporter.targets.executorch.kernels import Portable
from exporter.targets.executorch.lower import RULES
from exporter.targets.executorch.program import ITEM_BYTES
from exporter.targets.executorch.walk import Lowered
from exporter.targets.executorch.xnnpack import Xnnpack
from exporter.tensors import from_array
from tests.executorch.support import SPEC
from tests.ir.graphs import graph, node

XNNPACK, PORTABLE = Xnnpack(), Portable()


def lower(model: ir.Model, engine: Engine = XNNPACK) -> Lowered:
    return lowering.lower(model, engine)


def quantized(quant: str) -> ir.Model:
    return apply_recipe(graph(SPEC), QUANTS[quant].recipe)


def kernels(lowered: Lowered) -> Counter[str]:
    document = lowered.program.to_document(range(len(lowered.program.calls)), lowered.constants)
    names = [operator["name"] for operator in document["operators"]]
    instructions = (i for i in document["chains"][0]["instructions"] if i["instr_args_type"] == "KernelCall")
    return Counter(names[i["instr_args"]["op_index"]] for i in instructions)


def test_every_op_of_the_vocabulary_has_a_rule() -> None:
    assert set(RULES) == {*vocabulary(), "DequantizeLinear"}


@pytest.mark.parametrize("quant", QUANTS)
def test_a_layer_is_one_delegate_and_three_kernels(quant: str) -> None:
    lowered = lower(quantized(quant))
    assert len(lowered.program.calls) == SPEC.n_layers + 2  # before the first attention, and the head
    assert kernels(lowered) == {
        "aten::_local_scalar_dense": 1,
        "aten::sym_size": 1,
        "executorch_prim::add": 1,
        "aten::slice_copy": 2,
        "aten::embedding" if quant == "f32" else "quantized_decomposed::embedding_byte": 1,
        "llama::update_cache": 2 * SPEC.n_layers,
        "llama::custom_sdpa": SPEC.n_layers,
        "aten::select_copy": 1,
    }


def test_activations_are_rounded_once_for_all_matrices_that_multiply_them() -> None:
    nodes = [n["xnode_union_type"] for call in lower(quantized("int4")).program.calls for n in call.delegate._nodes]
    assert nodes.count("XNNFullyConnected") == 7 * SPEC.n_layers + 1
    assert nodes.count("XNNConvert") == 4 * SPEC.n_layers


def test_weights_only_rounds_nothing() -> None:
    lowered = lower(quantized("int8w"), Xnnpack(rounds=QUANTS["int8w"].rounds))
    nodes = [n["xnode_union_type"] for call in lowered.program.calls for n in call.delegate._nodes]
    assert "XNNConvert" not in nodes


@pytest.mark.parametrize("engine", [XNNPACK, PORTABLE])
def test_the_memory_does_not_grow_with_the_layers(engine: Engine) -> None:
    """But for the caches."""

    def planned(n_layers: int) -> int:
        spec = SPEC.replace(n_layers=n_layers)
        program = lower(graph(spec), engine).program
        total: int = program.to_document(range(len(program.calls)), [])["non_const_buffer_sizes"][1]
        cache = spec.max_seq_len * spec.n_kv_heads * spec.head_dim * 4 + 64
        return total - 2 * n_layers * cache

    assert planned(2) == planned(5)


@pytest.mark.parametrize("engine", [XNNPACK, PORTABLE])
def test_no_tensor_overwrites_another_that_is_still_needed(engine: Engine) -> None:
    program = lower(graph(SPEC), engine).program
    document = program.to_document(range(len(program.calls)), [])
    values, live = document["values"], {}
    for at, instruction in enumerate(document["chains"][0]["instructions"]):
        for argument in instruction["instr_args"]["args"]:
            several = values[argument]["val"]["items"] if values[argument]["val_type"] == "TensorList" else [argument]
            for value in several:
                first, _ = live.get(value, (at, at))
                live[value] = first, at
    assert len(live) > 20
    places: list[tuple[int, int, int, int]] = []
    for value, (first, last) in live.items():
        tensor = values[value]["val"]
        if values[value]["val_type"] == "Tensor" and "allocation_info" in tensor:
            size = ITEM_BYTES[tensor["scalar_type"]]
            for length in tensor["sizes"]:
                size *= length
            start = tensor["allocation_info"]["memory_offset_low"]
            whole = tensor["sizes"][1:2] == [SPEC.max_seq_len] and tensor["shape_dynamism"] == 0
            places.append((start, start + size, 0 if whole else first, 10**9 if whole else last))
    for i, (start, end, first, last) in enumerate(places):
        for start2, end2, first2, last2 in places[:i]:
            assert end <= start2 or end2 <= start or last < first2 or last2 < first


@pytest.mark.parametrize("engine", [XNNPACK, PORTABLE])
def test_no_matrix_is_read(engine: Engine) -> None:
    model = graph(SPEC)

    def refuse(start: int, stop: int) -> Any:
        raise AssertionError("a weight was read")

    for value in model.graph.initializers.values():
        if value.name != "rope.inv_freq":
            value.const_value.read = refuse  # type: ignore[union-attr]
    assert len(lower(model, engine).parameters) == 3 + 9 * SPEC.n_layers


def test_an_op_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(lowering.RULES, "SwiGLU")
    with pytest.raises(TargetError, match="does not know") as refusal:
        lower(graph(SPEC))
    assert refusal.value.found == "SwiGLU"


def test_a_rotation_of_anything_but_a_projection_is_refused() -> None:
    model = graph(SPEC)
    wq = node(model, "layers.0.attention.wq")
    matrix = ops.initializer(model.graph, from_array("extra.weight", np.eye(96, dtype=np.float32)))
    extra = ops.linear(model.graph, wq.outputs[0], matrix, name="extra")
    extra_node = extra.producer()
    assert extra_node is not None
    model.graph.remove(extra_node)
    model.graph.insert_after(wq, extra_node)
    node(model, "layers.0.attention.wo").replace_input_with(0, extra)
    with pytest.raises(TargetError, match="must follow a projection"):
        lower(model)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            Recipe("small groups", (Rule(frozenset({EMBEDDING}), replace(INT4, group_size=16)), *INT4_RECIPE.rules)),
            "no kernel for",
        ),
        (
            Recipe(
                "groups of 8 bits", (Rule(frozenset({EMBEDDING}), INT8_ROWS), Rule(frozenset({LINEAR, HEAD}), INT8))
            ),
            "XNNPACK has no kernel",
        ),
    ],
)
def test_an_encoding_without_a_kernel_is_refused(recipe: Recipe, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        lower(apply_recipe(graph(SPEC), recipe))


def test_kernels_refuse_4_bits() -> None:
    with pytest.raises(TargetError, match="no kernel of every runtime multiplies"):
        lower(quantized("int4"), PORTABLE)


@pytest.mark.parametrize("quant", ROWS["portable"])
def test_a_portable_program_has_no_delegate_and_one_product_a_matrix(quant: str) -> None:
    lowered = lower(apply_recipe(graph(SPEC), ROWS["portable"][quant].recipe), PORTABLE)
    product = "aten::linear" if quant in ("f32", "bf16") else "quantized_decomposed::mixed_linear"
    assert not lowered.program.calls
    assert kernels(lowered)[product] == 7 * SPEC.n_layers + 1
    assert kernels(lowered)["llama::custom_sdpa"] == SPEC.n_layers
    # One for each of the four inputs that seven matrices share, and each product back; the embedding once.
    assert kernels(lowered)["aten::_to_copy"] == ((4 + 7) * SPEC.n_layers + 2 + 1 if quant == "bf16" else 0)


def test_another_pair_of_executorch_and_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "CHECKED", {"1.4.0": "2.12.0"})
    with pytest.raises(RuntimeUnavailableError) as refusal:
        wheel.require()
    assert refusal.value.expected == "executorch 1.4.0 with torch 2.12.0"
    assert str(refusal.value.found).startswith("executorch 1.4.0 with torch 2.13.0")
