"""The reference is right: transformers and ONNX Runtime, which share no code with it, compute the same numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exporter.config import RopeScaling
from exporter.ir import interpreter, store
from exporter.ir.build import build, config_of
from exporter.prune_guard.vocabulary import narrow_head
from exporter.source import SourceOptions, open_source
from exporter.tensors import from_array
from tests.fixtures.models import ADAPTED_SPEC, TinySpec, weights
from tests.ir.graphs import graph, random_inputs, token_ids

Logits = npt.NDArray[np.float32]
Saved = Callable[[TinySpec, str], tuple[ir.Model, onnxruntime.InferenceSession]]

TOLERANCE = 1e-5
"""Of the logits' standard deviation: a few roundings of float32, far below any mistake."""

# Llama 3's scaling as if the model had been trained on 32 positions: most frequencies of a tiny head change.
LLAMA3_ROPE = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=32)

SPECS = {
    "head_dim is not dim / n_heads, grouped queries": TinySpec(),
    "one key/value head": TinySpec(n_kv_heads=1),
    "as many key/value heads as query heads": TinySpec(n_kv_heads=4),
    "tied embeddings": TinySpec(tied=True),
    "three layers, float32": TinySpec(n_layers=3, dtype="float32", seed=1),
    "another epsilon and base": TinySpec(norm_eps=1e-2, rope_theta=100.0),
    "llama3 rope": TinySpec(rope_scaling=LLAMA3_ROPE),
    "linear rope": TinySpec(rope_scaling=RopeScaling("linear", 4.0)),
}

ADAPTED = {
    "a Hadamard transform": TinySpec(ffn_dim=128, ffn_hadamard=True),
    "another width of it": TinySpec(ffn_dim=256, ffn_hadamard=True),
    "adaptors": TinySpec(lora_rank=4, lora_scale=2.0),
    "both": ADAPTED_SPEC,
}
"""What transformers does not compute."""

WRONG = {
    "another epsilon": TinySpec(norm_eps=2e-5),
    "another base": TinySpec(rope_theta=400000.0),
    "a scaling where there is none": TinySpec(rope_scaling=LLAMA3_ROPE),
    "frequencies off by 1 %": TinySpec(rope_scaling=RopeScaling("linear", 1.01)),
    "other weights": TinySpec(seed=1),
}

RECIPES = ("f32", "bf16", "int8", "int4")

STEPS = {
    "prefill": {"batch": 1, "past": 0, "new": 7},
    "batched prefill": {"batch": 2, "past": 0, "new": 5},
    "decode": {"batch": 1, "past": 7, "new": 1},
    "batched decode": {"batch": 2, "past": 3, "new": 1},
    "several tokens after a cache": {"batch": 2, "past": 4, "new": 3},
}


def distance(expected: npt.ArrayLike, found: npt.ArrayLike) -> float:
    """Largest difference in standard deviations of what was expected."""
    expected, found = np.asarray(expected), np.asarray(found)
    assert expected.shape == found.shape
    return float(np.abs(expected - found).max() / expected.std())


def transformers_logits(folder: Path, ids: list[int]) -> Logits:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits: Logits = model(torch.tensor([ids])).logits[0].numpy()
    return logits


def source_graph(folder: Path) -> ir.Model:
    return open_source(str(folder), SourceOptions()).graph()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_it_agrees_with_transformers(spec: TinySpec, huggingface_folder: Callable[[TinySpec], Path]) -> None:
    folder = huggingface_folder(spec)
    ids = token_ids(spec.vocab_size, 40)
    found = interpreter.logits(source_graph(folder), ids)
    assert distance(transformers_logits(folder, ids), found) < TOLERANCE


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_tolerance_would_catch(wrong: TinySpec, huggingface_folder: Callable[[TinySpec], Path]) -> None:
    right = TinySpec()
    ids = token_ids(right.vocab_size, 40)
    expected = transformers_logits(huggingface_folder(right), ids)
    found = interpreter.logits(source_graph(huggingface_folder(wrong)), ids)
    assert distance(expected, found) > 100 * TOLERANCE


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """``saved(spec, recipe)``: a graph, and ONNX Runtime on the file it was saved to."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    @functools.cache
    def save(spec: TinySpec, recipe: str) -> tuple[ir.Model, onnxruntime.InferenceSession]:
        model, path = graph(spec, recipe), tmp_path_factory.mktemp("graph") / "graph.onnx"
        store.save(model, path)
        return model, onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    return save


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_agrees_with_onnx_runtime_on_the_saved_graph(recipe: str, step: dict[str, int], saved: Saved) -> None:
    assert_onnx_runtime_agrees(*saved(TinySpec(), recipe), step)


@pytest.mark.parametrize("step", [STEPS["prefill"], STEPS["several tokens after a cache"]], ids=["prefill", "cache"])
@pytest.mark.parametrize("spec", (SPECS | ADAPTED).values(), ids=SPECS | ADAPTED)
def test_every_shape_runs_in_onnx_runtime(spec: TinySpec, step: dict[str, int], saved: Saved) -> None:
    assert_onnx_runtime_agrees(*saved(spec, "int4" if spec.tied else "f32"), step)


def assert_onnx_runtime_agrees(model: ir.Model, session: onnxruntime.InferenceSession, step: dict[str, int]) -> None:
    inputs = random_inputs(model, **step)
    expected = interpreter.run(model, inputs)
    found = session.run(list(expected), {name: tensor.numpy() for name, tensor in inputs.items()})
    for name, array in zip(expected, found, strict=True):
        assert distance(expected[name], array) < TOLERANCE, name


def test_a_head_with_some_tokens_runs_in_onnx_runtime(tmp_path: Path) -> None:
    model = narrow_head(graph(TinySpec(tied=True)), [3, 5, 575])
    store.save(model, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    inputs = random_inputs(model, batch=2, past=4, new=3)
    expected = interpreter.run(model, inputs)["logits"].numpy()
    (found,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
    finite = np.isfinite(expected)
    assert finite.sum() == 2 * 3 * 3
    assert np.array_equal(np.isneginf(found), ~finite)
    assert distance(expected[finite], found[finite]) < TOLERANCE
    assert config_of(store.load(tmp_path / "graph.onnx")).kept_tokens == (3, 5, 575)


@pytest.mark.parametrize("width", [1, 2, 64, 8192])
def test_a_hadamard_transform_is_the_product_with_sylvesters_matrix(width: int) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, width))
    # H[i, j] = 1 or -1 as i and j have an even or odd number of bits in common.
    shared = (np.arange(width)[:, None] & np.arange(min(width, 256))[None]).astype(np.uint16)
    signs = 1 - 2 * (np.bitwise_count(shared).astype(np.int64) % 2)
    found = interpreter.IMPLEMENTATIONS["Hadamard"](None, torch.from_numpy(x).float())
    assert distance(x @ signs / np.sqrt(width), found[..., :256]) < TOLERANCE


def test_a_hadamard_transform_undoes_itself() -> None:
    transform = interpreter.IMPLEMENTATIONS["Hadamard"]
    x = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0))
    assert distance(x, transform(None, transform(None, x))) < TOLERANCE


def test_an_adaptor_is_a_change_of_its_weight() -> None:
    """Of every projection: ``w + scale * b a`` in its place gives the same logits."""
    spec = TinySpec(lora_rank=4, lora_scale=1.5)
    arrays = {name: array.astype(np.float32) for name, array in weights(spec).items()}
    merged = {name: array for name, array in arrays.items() if ".adaptor." not in name}
    for name, a in arrays.items():
        if name.endswith(".A.weight"):
            b = arrays[name.replace(".A.", ".B.")]
            merged[name.replace(".adaptor.A", "")] += spec.lora_scale * (b @ a)
    ids = token_ids(spec.vocab_size)
    config = spec.config.replace(lora_rank=0, lora_scale=0.0)
    plain = build(config, {name: from_array(name, array) for name, array in merged.items()})
    assert distance(interpreter.logits(plain, ids), interpreter.logits(graph(spec), ids)) < TOLERANCE


@pytest.mark.parametrize("chunks", [(1,) * 12, (7, 1, 4), (11, 1)], ids=["token by token", "unequal", "prefill + 1"])
def test_decoding_with_the_cache_equals_prefill(chunks: tuple[int, ...]) -> None:
    model = graph()
    ids = token_ids(TinySpec().vocab_size, sum(chunks))
    caches, parts, past = interpreter.empty_cache(model), [], 0
    for n in chunks:
        tokens = torch.tensor([ids[past : past + n]])
        outputs = interpreter.run(model, {"tokens": tokens, "positions": torch.arange(past, past + n)[None], **caches})
        parts.append(outputs["logits"][0])
        caches = {name.replace("present", "past"): t for name, t in outputs.items() if name != "logits"}
        past += n
    assert distance(interpreter.logits(model, ids), torch.cat(parts)) < TOLERANCE


def test_a_token_sees_nothing_that_follows_it() -> None:
    model, ids = graph(), token_ids(TinySpec().vocab_size)
    other = [*ids[:-1], ids[-1] + 1]
    assert distance(interpreter.logits(model, ids)[:-1], interpreter.logits(model, other)[:-1]) < TOLERANCE


def test_sequences_of_a_batch_do_not_mix() -> None:
    model = graph()
    inputs = random_inputs(model, batch=2, past=3, new=2)
    together = interpreter.run(model, inputs)
    for i in range(2):
        alone = interpreter.run(model, {name: tensor[i : i + 1] for name, tensor in inputs.items()})
        for name, tensor in alone.items():
            assert distance(together[name][i : i + 1], tensor) < TOLERANCE, name


def test_a_weight_read_in_slabs_is_the_same_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = graph(recipe="int4"), token_ids(TinySpec().vocab_size)
    whole = interpreter.logits(model, ids)
    monkeypatch.setattr(interpreter, "SLAB_BYTES", 4 * 64 * 5)  # five rows of 64 columns
    assert distance(whole, interpreter.logits(model, ids)) < TOLERANCE
