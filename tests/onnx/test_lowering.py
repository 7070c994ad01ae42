"""Which graph comes out: what is fused, what is shared, what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from exporter.errors import TargetError
from exporter.ir.spec import vocabulary
from exporter.ir.verify import verify
from exporter.quant.apply import apply_recipe
from exporter.quant.schemes import EMBEDDING, HEAD, INT4, INT8, INT8_ROWS_RECIPE, LINEAR, Recipe, Rule
from exporter.targets.onnx import lower as lowering
from exporter.targets.onnx.capabilities import QUANTS
from exporter.targets.onnx.lower import RULES, lower
from tests.ir.graphs import graph, node
from tests.onnx.support import SPEC

F32, F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def op_types(model: ir.Model) -> Counter[str]:
    return Counter(n.op_type for n in model.graph)


def in_layer(model: ir.Model, layer: int) -> list[str]:
    return [n.op_type for n in model.graph if str(n.name).startswith(f"layers.{layer}.")]


def test_every_op_of_the_vocabulary_has_a_rule() -> None:
    assert set(RULES) == {*vocabulary(), "DequantizeLinear"}


def test_a_layer_is_fused() -> None:
    lowered = lower(graph(SPEC, "int4"), F32).model
    assert in_layer(lowered, 1) == [
        "SkipSimplifiedLayerNormalization",
        "MatMulNBits",  # query, key and value
        "Reshape",
        "GroupQueryAttention",
        "Reshape",
        "MatMulNBits",
        "SkipSimplifiedLayerNormalization",
        "MatMulNBits",
        "MatMulNBits",
        "Sigmoid",
        "Mul",
        "Mul",
        "MatMulNBits",
    ]


def test_wasm_has_every_op() -> None:
    """No GatherBlockQuantized, and nothing of an opset that onnxruntime-web does not know."""
    for quant in QUANTS.values():
        lowered = lower(apply_recipe(graph(SPEC), quant.recipe), quant.activations).model
        contributed = {n.op_type for n in lowered.graph if n.domain}
        assert contributed <= {"GroupQueryAttention", "MatMulNBits", "SkipSimplifiedLayerNormalization"}
        assert lowered.graph.opset_imports == {"": 21, "com.microsoft": 1}


def test_the_cache_has_static_heads() -> None:
    lowered = lower(graph(SPEC), F16).model
    inputs, outputs = ({str(v.name): v for v in values} for values in (lowered.graph.inputs, lowered.graph.outputs))
    parts = [f"{layer}.{kind}" for layer in range(SPEC.n_layers) for kind in ("key", "value")]
    past = [f"past_key_values.{part}" for part in parts]
    assert list(inputs) == ["input_ids", "attention_mask", "num_logits_to_keep", *past]
    assert list(outputs) == ["logits", *(f"present.{part}" for part in parts)]
    assert outputs["logits"].dtype == F32
    for name in past:
        shape = inputs[name].shape
        assert shape is not None
        assert inputs[name].dtype == F16
        assert [shape[1], shape[3]] == [SPEC.n_kv_heads, SPEC.head_dim]


def test_norms_and_residuals_stay_float32_beside_float16_products() -> None:
    lowered = lower(graph(SPEC, "f16"), F16).model
    for n in lowered.graph:
        if n.op_type.endswith("SimplifiedLayerNormalization"):
            assert {v.dtype for v in n.inputs if v is not None} == {F32}
        if n.op_type in ("Gemm", "GroupQueryAttention"):
            assert n.outputs[0].dtype == F16


def test_the_tied_embedding_is_the_heads_initializer() -> None:
    for recipe, name in (("f32", "tok_embeddings.weight"), ("int4", "tok_embeddings.weight.ints")):
        lowered = lower(graph(SPEC.replace(tied=True), recipe), F32).model
        users = {n.op_type for n, _ in lowered.graph.initializers[name].uses()}
        assert users == {"Gather", "Gemm" if recipe == "f32" else "MatMulNBits"}


def test_rows_with_one_scale_are_multiplied_as_integers() -> None:
    lowered = lower(apply_recipe(graph(SPEC.replace(tied=True)), INT8_ROWS_RECIPE), F32).model
    assert "MatMulNBits" not in op_types(lowered)
    assert op_types(lowered)["MatMulInteger"] == SPEC.n_layers * 5 + 1
    planes = [n for n in lowered.graph if n.op_type == "Concat" and str(n.name).endswith(".planes.both")]
    assert len(planes) == SPEC.n_layers * 4 + 1, "one pair for all matrices that multiply the same activations"
    users = {n.op_type for n, _ in lowered.graph.initializers["tok_embeddings.weight.ints"].uses()}
    assert users == {"Gather", "MatMulInteger"}


def test_projections_that_are_encoded_differently_stay_apart() -> None:
    model = graph(SPEC, "int4")
    keep = graph(SPEC, "f32").graph.initializers["layers.0.attention.wk.weight"]
    weight = node(model, "layers.0.attention.wk").inputs[1]
    assert weight is not None
    dequantize = weight.producer()
    assert dequantize is not None
    plain = ir.Value(
        name="layers.0.attention.wk.weight", type=keep.type, shape=keep.shape, const_value=keep.const_value
    )
    parts = [v for v in dequantize.inputs if v is not None]
    node(model, "layers.0.attention.wk").replace_input_with(1, plain)
    model.graph.remove(dequantize, safe=True)
    for part in parts:
        del model.graph.initializers[str(part.name)]
    model.graph.register_initializer(plain)
    verify(model)
    lowered = lower(model, F32).model
    projections = [n for n in lowered.graph if str(n.name).startswith("layers.0.attention.w")]
    assert [n.op_type for n in projections] == ["MatMulNBits", "Gemm", "MatMulNBits", "MatMulNBits"]
    attention = next(n for n in lowered.graph if n.op_type == "GroupQueryAttention")
    assert None not in attention.inputs[:3]


def test_no_weight_is_read() -> None:
    model = graph(SPEC)

    def refuse(start: int, stop: int) -> Any:
        raise AssertionError("a weight was read")

    for value in model.graph.initializers.values():
        if value.name != "rope.inv_freq":
            value.const_value.read = refuse  # type: ignore[union-attr]
    assert len(lower(model, F32).parameters) == 3 + 9 * SPEC.n_layers


def test_an_op_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(lowering.RULES, "SwiGLU")
    with pytest.raises(TargetError, match="does not know") as refusal:
        lower(graph(SPEC), F32)
    assert refusal.value.found == "SwiGLU"


def test_an_attention_without_rotation_is_refused() -> None:
    model = graph(SPEC)
    rope = node(model, "layers.0.attention.rope_k")
    node(model, "layers.0.attention").replace_input_with(1, rope.inputs[0])
    model.graph.remove(rope, safe=True)
    with pytest.raises(TargetError, match="cannot be fused") as refusal:
        lower(model, F32)
    assert refusal.value.found == "Linear"


def test_heads_that_onnx_runtime_cannot_compute_are_refused() -> None:
    with pytest.raises(TargetError, match="heads of width 24") as refusal:
        lower(graph(SPEC.replace(head_dim=24)), F32)
    assert refusal.value.expected == "a multiple of 16"


def test_a_4_bit_embedding_is_refused() -> None:
    recipe = Recipe("all4", (Rule(frozenset({LINEAR, HEAD}), INT8), Rule(frozenset({EMBEDDING}), INT4)))
    with pytest.raises(TargetError, match="must have 8 bits"):
        lower(apply_recipe(graph(SPEC), recipe), F32)


def test_the_rotary_table_is_the_references() -> None:
    import torch

    lowered = lower(graph(SPEC), F32)
    table = next(w for w in lowered.weights if w.blobs[0].name == "cos_cache")
    rows = np.concatenate([task()[0] for task in table.tasks])
    inv_freq = graph(SPEC).graph.initializers["rope.inv_freq"].const_value
    assert inv_freq is not None
    angles = torch.arange(SPEC.max_seq_len, dtype=torch.float32)[:, None] * torch.from_numpy(inv_freq.numpy())
    assert rows.shape == (SPEC.max_seq_len, SPEC.head_dim // 2)
    assert np.abs(rows - angles.cos().numpy()).max() < 1e-6
