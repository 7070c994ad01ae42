"""Every rule of the verifier has a graph that breaks it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.build import CONFIG_KEY, config_of, set_config
from exporter.ir.verify import verify
from exporter.prune_guard.vocabulary import narrow_head
from exporter.tensors import from_array
from tests.fixtures.models import ADAPTED_SPEC, LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, node

Breaker = Callable[[ir.Model], None]
BREAKERS: dict[str, tuple[Breaker, str]] = {}
"""What is broken -> a function that breaks it in a graph, and what the verifier says to that."""


def breaks(what: str, message: str) -> Callable[[Breaker], None]:
    def register(breaker: Breaker) -> None:
        BREAKERS[what] = breaker, message

    return register


@pytest.mark.parametrize("recipe", [None, "f32", "f16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("spec", [TinySpec(), TinySpec(tied=True, rope_scaling=LLAMA3_SCALING)], ids=["untied", "tied"])
def test_a_good_graph_is_accepted(spec: TinySpec, recipe: str | None) -> None:
    verify(graph(spec, recipe))


# --- Nodes -------------------------------------------------------------------------------------------------------


@breaks("an op that is not of the vocabulary", "node layers.0.ffn_norm has an op outside the vocabulary")
def _(model: ir.Model) -> None:
    node(model, "layers.0.ffn_norm").op_type = "LayerNorm"


@breaks(
    "a standard op other than DequantizeLinear", "node layers.1.attention_residual has an op outside the vocabulary"
)
def _(model: ir.Model) -> None:
    changed = node(model, "layers.1.attention_residual")
    changed.domain, changed.op_type = "", "Add"


@breaks("an attribute is missing", "node norm (RMSNorm): wrong attributes")
def _(model: ir.Model) -> None:
    del node(model, "norm").attributes["epsilon"]


@breaks("an attribute too many", "node logits (Linear): wrong attributes")
def _(model: ir.Model) -> None:
    node(model, "logits").attributes.add(ir.AttrInt64("transpose", 1))


@breaks("an operand is missing", "node layers.0.attention (Attention): wrong operands")
def _(model: ir.Model) -> None:
    node(model, "layers.0.attention").replace_input_with(4, None)


@breaks("an operand too few", "node layers.0.ffn_residual (Residual): wrong operands")
def _(model: ir.Model) -> None:
    node(model, "layers.0.ffn_residual").resize_inputs(1)


@breaks("an operand too many", "node layers.0.ffn_norm (RMSNorm): wrong operands")
def _(model: ir.Model) -> None:
    changed = node(model, "layers.0.ffn_norm")
    changed.resize_inputs(3)
    changed.replace_input_with(2, model.graph.initializers["norm.weight"])


@breaks("an operand with too many axes", "node layers.0.ffn_norm (RMSNorm) cannot read output.weight")
def _(model: ir.Model) -> None:
    node(model, "layers.0.ffn_norm").replace_input_with(1, model.graph.initializers["output.weight"])


@breaks("integers that nobody decodes", "node layers.0.attention.wo (Linear) cannot read layers.0.attention.wo.weight")
def _(model: ir.Model) -> None:
    tensor = from_array("layers.0.attention.wo.weight", np.zeros((64, 96), np.int8))
    weight = model.graph.initializers[str(tensor.name)]
    weight.const_value, weight.type = tensor, ir.TensorType(tensor.dtype)


@breaks("operands that do not fit each other", "node layers.0.feed_forward.w2 (Linear): wrong weight shape")
def _(model: ir.Model) -> None:
    wrong = model.graph.initializers["layers.0.feed_forward.w1.weight"]
    node(model, "layers.0.feed_forward.w2").replace_input_with(1, wrong)


@breaks("query heads that are no multiple of the key/value heads", "node layers.1.attention (Attention): wrong heads")
def _(model: ir.Model) -> None:
    node(model, "layers.1.attention").attributes.add(ir.AttrInt64("n_kv_heads", 3))


@breaks("another number of rotary heads", "node layers.1.attention.rope_k (Rope): wrong width")
def _(model: ir.Model) -> None:
    node(model, "layers.1.attention.rope_k").attributes.add(ir.AttrInt64("n_heads", 4))


# --- Values ------------------------------------------------------------------------------------------------------


@breaks("a stale shape", "value layers.0.attention.wq has a stale type")
def _(model: ir.Model) -> None:
    node(model, "layers.0.attention.wq").outputs[0].shape = ir.Shape(("batch", "seq_len", 64))


@breaks("a stale type", "value layers.0.ffn_norm has a stale type")
def _(model: ir.Model) -> None:
    node(model, "layers.0.ffn_norm").outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


@breaks("a value without a shape", "value tok_embeddings has no shape")
def _(model: ir.Model) -> None:
    node(model, "tok_embeddings").outputs[0].shape = None


@breaks("nodes out of order", "node layers.0.attention.wq reads layers.0.attention_norm before it is made")
def _(model: ir.Model) -> None:
    moved = node(model, "layers.0.attention_norm")
    model.graph.remove(moved)
    model.graph.insert_after(node(model, "layers.0.attention.wv"), moved)


@breaks(
    "a node whose producer was removed",
    "node layers.1.feed_forward.w2 reads layers.1.feed_forward.swiglu",
)
def _(model: ir.Model) -> None:
    model.graph.remove(node(model, "layers.1.feed_forward.swiglu"))


@breaks("a name used twice", "node layers.1.ffn_norm: output name 'layers.0.ffn_norm' is empty or used twice")
def _(model: ir.Model) -> None:
    node(model, "layers.1.ffn_norm").outputs[0].name = "layers.0.ffn_norm"


@breaks("a value named like a weight", "node layers.1.ffn_norm: output name 'norm.weight' is empty or used twice")
def _(model: ir.Model) -> None:
    node(model, "layers.1.ffn_norm").outputs[0].name = "norm.weight"


@breaks("a value without a name", "node layers.1.ffn_norm: output name '' is empty or used twice")
def _(model: ir.Model) -> None:
    node(model, "layers.1.ffn_norm").outputs[0].name = ""


@breaks("an output that no node produces", "graph output nothing is not produced by any node")
def _(model: ir.Model) -> None:
    model.graph.outputs[0] = ir.Value(name="nothing")


# --- Weights -----------------------------------------------------------------------------------------------------


@breaks("a weight that no node uses", "weight rope.freqs is used by no node")
def _(model: ir.Model) -> None:
    ops.initializer(model.graph, from_array("rope.freqs", np.ones(12, np.float32)))


@breaks("a weight without a tensor", "weight norm.weight and its tensor disagree")
def _(model: ir.Model) -> None:
    model.graph.initializers["norm.weight"].const_value = None


@breaks("a tensor of another type than its weight", "weight norm.weight and its tensor disagree")
def _(model: ir.Model) -> None:
    weight = model.graph.initializers["norm.weight"]
    weight.const_value = from_array("norm.weight", np.ones(64, np.float16))


@breaks("a tensor of another shape than its weight", "weight output.weight and its tensor disagree")
def _(model: ir.Model) -> None:
    weight = model.graph.initializers["output.weight"]
    weight.const_value = from_array("output.weight", np.zeros((64, 96), np.float32).astype(weight.dtype.numpy()))


# --- Configuration -----------------------------------------------------------------------------------------------


@breaks("no configuration", "carries no valid configuration")
def _(model: ir.Model) -> None:
    del model.metadata_props[CONFIG_KEY]


@breaks("a configuration that is not JSON", "carries no valid configuration")
def _(model: ir.Model) -> None:
    model.metadata_props[CONFIG_KEY] = "LlamaConfig {"


@breaks("a configuration of somebody else", "carries no valid configuration")
def _(model: ir.Model) -> None:
    model.metadata_props[CONFIG_KEY] = json.dumps({"hidden_size": 64})


@pytest.mark.parametrize(("breaker", "message"), BREAKERS.values(), ids=BREAKERS)
def test_it_refuses(breaker: Breaker, message: str) -> None:
    model = graph()
    breaker(model)
    assert_refused(model, message)


FREQUENCIES = "node layers.0.attention.rope_q: frequencies differ"
MISDESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "another number of layers": ({"n_layers": 3}, "the configuration miscounts the layers"),
    "other query heads": ({"n_heads": 8}, "node layers.0.attention: heads differ"),
    "other key/value heads": ({"n_kv_heads": 4}, "node layers.0.attention: heads differ"),
    "another vocabulary": ({"vocab_size": 577}, "node tok_embeddings: the table differs"),
    "another width": ({"dim": 128}, "node tok_embeddings: the table differs"),
    "another epsilon": ({"norm_eps": 1e-6}, "node layers.0.attention_norm: epsilon differs"),
    "another rope base": ({"rope_theta": 10000.0}, FREQUENCIES),
    "another head width": ({"head_dim": 16}, FREQUENCIES),
    "a rope scaling that the graph lacks": ({"rope_scaling": LLAMA3_SCALING}, FREQUENCIES),
}


@pytest.mark.parametrize(("changes", "message"), MISDESCRIPTIONS.values(), ids=MISDESCRIPTIONS)
def test_it_refuses_a_configuration_with(changes: dict[str, Any], message: str) -> None:
    model = graph()
    set_config(model, config_of(model).replace(**changes))
    assert_refused(model, message)


# --- What Meta adds to a Llama when it quantizes one ---------------------------------------------------------------

ADAPTOR, HADAMARD = "layers.1.attention.wo.adaptor", "layers.1.feed_forward.hadamard"


def _without_adaptor(model: ir.Model) -> None:
    adaptor = node(model, ADAPTOR)
    adaptor.outputs[0].replace_all_uses_with(adaptor.inputs[0])
    model.graph.remove(adaptor, safe=True)


def _without_hadamard(model: ir.Model) -> None:
    hadamard = node(model, HADAMARD)
    hadamard.outputs[0].replace_all_uses_with(hadamard.inputs[0])
    model.graph.remove(hadamard, safe=True)


def _with_matrix(name: str, index: int, shape: tuple[int, int]) -> Breaker:
    def replace(model: ir.Model) -> None:
        matrix = ops.initializer(model.graph, from_array("other", np.zeros(shape, np.float32)))
        node(model, name).replace_input_with(index, matrix)

    return replace


def _another_scale(model: ir.Model) -> None:
    node(model, ADAPTOR).attributes.add(ir.AttrFloat32("scale", 2.0))


ADDED_BREAKERS: dict[str, tuple[Breaker, str]] = {
    "a layer without its Hadamard transform": (_without_hadamard, "layers.1.feed_forward.swiglu: the configuration"),
    "an adaptor without a use": (_without_adaptor, f"weight {ADAPTOR}.A.weight is used by no node"),
    "an adaptor with another scale": (_another_scale, "the adaptors differ from the configuration"),
    "an A for inputs of another width": (_with_matrix(ADAPTOR, 2, (4, 64)), f"{ADAPTOR} (LoRA): wrong shape of A"),
    "a B of another rank": (_with_matrix(ADAPTOR, 3, (64, 5)), f"{ADAPTOR} (LoRA): wrong shape of B"),
    "a B for outputs of another width": (_with_matrix(ADAPTOR, 3, (96, 4)), f"{ADAPTOR} (LoRA): wrong shape of B"),
    "an adaptor without its scale": (
        lambda model: node(model, ADAPTOR).attributes.pop("scale"),
        f"{ADAPTOR} (LoRA): wrong attributes",
    ),
    "an adaptor without its input": (
        lambda model: node(model, ADAPTOR).replace_input_with(1, None),
        f"{ADAPTOR} (LoRA): wrong operands",
    ),
    "a Hadamard transform of two values": (
        lambda model: node(model, HADAMARD).resize_inputs(2),
        f"{HADAMARD} (Hadamard): wrong operands",
    ),
}


@pytest.mark.parametrize(("breaker", "message"), ADDED_BREAKERS.values(), ids=ADDED_BREAKERS)
def test_it_refuses_an_adapted_llama_with(breaker: Breaker, message: str) -> None:
    model = graph(ADAPTED_SPEC)
    verify(model)
    breaker(model)
    assert_refused(model, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn_hadamard": False}, "the configuration says otherwise about a Hadamard transform"),
        ({"lora_rank": 0}, "the adaptors differ"),
        ({"lora_rank": 8}, "the adaptors differ"),
        ({"lora_scale": 1.0}, "the adaptors differ"),
    ],
    ids=str,
)
def test_it_refuses_an_adapted_llama_that_its_configuration_does_not_describe(
    changes: dict[str, Any], message: str
) -> None:
    model = graph(ADAPTED_SPEC)
    set_config(model, config_of(model).replace(**changes))
    assert_refused(model, message)


@pytest.mark.parametrize("changes", [{"ffn_hadamard": True}, {"lora_rank": 4, "lora_scale": 2.0}], ids=str)
def test_it_refuses_a_plain_llama_that_is_said_to_be_adapted(changes: dict[str, Any]) -> None:
    model = graph()
    set_config(model, config_of(model).replace(**changes))
    assert_refused(model, "configuration")


def test_it_refuses_an_adaptor_beside_another_number_of_tokens() -> None:
    model = graph(ADAPTED_SPEC)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("batch", 1, 96)))
    model.graph.inputs.append(x)
    node(model, ADAPTOR).replace_input_with(1, x)
    assert_refused(model, f"{ADAPTOR} (LoRA): wrong input")


@pytest.mark.parametrize("width", [96, 192])
def test_a_hadamard_transform_takes_powers_of_two(width: int) -> None:
    with pytest.raises(GraphError, match=r"\(Hadamard\): wrong width"):
        graph(TinySpec(ffn_dim=width, ffn_hadamard=True))


# --- Quantized weights -------------------------------------------------------------------------------------------

QUANTIZED = "layers.0.feed_forward.w1.weight"


def _with_attribute(name: str, value: int) -> Breaker:
    return lambda model: node(model, QUANTIZED).attributes.add(ir.AttrInt64(name, value))


def _with_operand(index: int, name: str, array: npt.NDArray[Any]) -> Breaker:
    def replace(model: ir.Model) -> None:
        decoder = node(model, QUANTIZED)
        decoder.resize_inputs(max(2, index + 1))
        decoder.replace_input_with(index, ops.initializer(model.graph, from_array(name, array)))

    return replace


def _config(**changes: object) -> Breaker:
    return lambda model: set_config(model, config_of(model).replace(**changes))


def _without_scatter(model: ir.Model) -> None:
    node(model, "logits").outputs[0].name = "full"
    model.graph.outputs[0] = node(model, "kept_logits").outputs[0]


HEAD_BREAKERS: dict[str, tuple[Breaker, str]] = {
    "other tokens than the configuration's": (_config(kept_tokens=(1, 2, 4)), "not those of the configuration"),
    "tokens that the configuration does not know of": (_config(kept_tokens=None), "not those of the configuration"),
    "logits of some tokens only": (_without_scatter, "not as many as the configuration's tokens"),
    "a vocabulary of another size": (
        lambda model: node(model, "logits").attributes.add(ir.AttrInt64("vocab_size", 600)),
        "value logits has a stale type",
    ),
}


@pytest.mark.parametrize(("breaker", "message"), HEAD_BREAKERS.values(), ids=HEAD_BREAKERS)
def test_it_refuses_a_narrow_head_with(breaker: Breaker, message: str) -> None:
    model = narrow_head(graph(), [1, 2, 3])
    breaker(model)
    assert_refused(model, message)


DECODER_BREAKERS: dict[str, tuple[Breaker, str]] = {
    "scales of another shape": (_with_operand(1, "wrong", np.ones((96, 1), np.float32)), "wrong scales shape"),
    "scales in float16": (_with_operand(1, "wrong", np.ones((96, 2), np.float16)), "cannot read wrong"),
    "integers of another width": (_with_operand(0, "wrong", np.zeros((96, 64), np.int16)), "cannot read wrong"),
    "a block size that does not divide the columns": (_with_attribute("block_size", 48), "wrong columns"),
    "another block size than the scales'": (_with_attribute("block_size", 16), "wrong scales shape"),
    "blocks along the rows": (_with_attribute("axis", 0), "wrong axis"),
    "no block size": (lambda model: node(model, QUANTIZED).attributes.pop("block_size"), "wrong attributes"),
    "no scales": (lambda model: node(model, QUANTIZED).resize_inputs(1), "wrong operands"),
    "a zero point": (_with_operand(2, "zero", np.zeros((96, 2), np.int8)), "wrong operands"),
}


@pytest.mark.parametrize(("breaker", "message"), DECODER_BREAKERS.values(), ids=DECODER_BREAKERS)
def test_it_refuses_a_decoder_with(breaker: Breaker, message: str) -> None:
    model = graph(recipe="int4")
    breaker(model)
    assert_refused(model, message, QUANTIZED)


def assert_refused(model: ir.Model, *phrases: str) -> None:
    with pytest.raises(GraphError) as caught:
        verify(model)
    assert all(phrase in caught.value.message for phrase in phrases), caught.value.message
    assert "\n" not in caught.value.message
