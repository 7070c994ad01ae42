"""One table of names; gguf-py and transformers confirm it."""

from __future__ import annotations

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from exporter.names import WEIGHTS, expected_shapes, name_map
from tests.fixtures.models import TinySpec, huggingface_config, weights

SPEC = TinySpec(n_layers=3)


def test_names_and_shapes_are_those_of_transformers() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**huggingface_config(SPEC)))
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    names = name_map("canonical", "huggingface", SPEC.n_layers)
    assert {names[name]: shape for name, shape in expected_shapes(SPEC.config).items()} == shapes


def test_gguf_names_are_those_of_the_converter() -> None:
    """gguf-py maps Hugging Face's names to GGUF's; the table must say the same."""
    of_gguf = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SPEC.n_layers)
    for own, name in name_map("huggingface", "gguf", SPEC.n_layers).items():
        assert of_gguf.get_name(own, try_suffixes=(".weight",)) == name


@pytest.mark.parametrize("convention", ["canonical", "huggingface", "gguf"])
def test_names_are_unique_and_the_maps_invert_each_other(convention: str) -> None:
    there = name_map("canonical", convention, 4)  # type: ignore[arg-type]
    back = name_map(convention, "canonical", 4)  # type: ignore[arg-type]
    assert {own: name for name, own in there.items()} == back
    assert len(there) == 4 * sum(w.per_layer for w in WEIGHTS) + sum(not w.per_layer for w in WEIGHTS)


def test_graph_order_is_embedding_layers_norm_head() -> None:
    assert list(expected_shapes(SPEC.config)) == list(weights(SPEC))


@pytest.mark.parametrize(("tied", "stored"), [(True, False), (False, True), (None, True)])
def test_a_head_is_expected_unless_it_is_known_to_be_the_embedding(tied: bool | None, stored: bool) -> None:
    assert ("output.weight" in expected_shapes(SPEC.config.replace(tied_embeddings=tied))) is stored
