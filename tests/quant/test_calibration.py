"""The calibration run: what it measures, how it goes on after an interruption, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.errors import CalibrationError
from exporter.ir import interpreter
from exporter.ir.stages import stages
from exporter.quant.apply import apply_recipe, roles
from exporter.quant.calibration import file, imatrix, texts
from exporter.quant.calibration.file import Calibration, Origin
from exporter.quant.calibration.run import Run
from exporter.quant.calibration.use import equalize
from exporter.quant.schemes import INT4, LINEAR, PORTABLE_RECIPES, Scheme
from exporter.source import SourceOptions, open_source
from exporter.tensors import from_array
from exporter.tokenizer import Tokenizer
from tests.fixtures.models import TinySpec, write_huggingface
from tests.ir.graphs import graph

SPEC = TinySpec(head_dim=32, n_layers=2)
WINDOWS = np.random.default_rng(0).integers(0, SPEC.vocab_size, (6, 64))
ORIGIN = Origin("m" * 64, "d" * 64, "text", WINDOWS.size, 64, "test")


def everywhere(model) -> dict[str, Scheme]:
    """The linears of a graph as ``int4`` has them."""
    return {str(w.name): INT4 for w in model.graph.initializers.values() if roles(w) == {LINEAR}}


def silent(_: int, __: str) -> None:
    pass


def calibrated(folder: Path, spec: TinySpec = SPEC) -> Calibration:
    model = graph(spec)
    parts = list(Run(model, WINDOWS, everywhere(model), folder).finish(silent))
    file.join(folder / "calibration.safetensors", parts, ORIGIN)
    return Calibration(folder / "calibration.safetensors")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return calibrated(tmp_path_factory.mktemp("run"))


def measured(model, name: str) -> np.ndarray:
    """Mean square of a linear's inputs, by running the whole graph at once."""
    squares = []

    def observe(node, output: torch.Tensor) -> None:
        if node.name == name:
            squares.append(output.square().mean(dim=(0, 1)))

    for window in WINDOWS:
        interpreter.logits(model, window.tolist(), observe)
    return torch.stack(squares).mean(dim=0).numpy()


def test_energies_are_the_mean_squares_of_the_inputs(calibration: Calibration) -> None:
    model = graph(SPEC)
    for source, weight in (
        ("layers.0.attention_norm", "layers.0.attention.wv.weight"),
        ("layers.1.attention", "layers.1.attention.wo.weight"),
        ("layers.1.feed_forward.swiglu", "layers.1.feed_forward.w2.weight"),
        ("norm", "output.weight"),
    ):
        np.testing.assert_allclose(calibration.energies[weight], measured(model, source), rtol=1e-4)


def test_every_linear_has_integers_and_the_head_has_none(calibration: Calibration) -> None:
    model = graph(SPEC)
    linears = [str(n.inputs[1].name) for n in model.graph if n.op_type == "Linear"]
    chosen = {name: calibration.integers(name, INT4) for name in linears}
    assert [name for name, found in chosen.items() if found is None] == ["output.weight"]
    for name, (ints, scales) in ((n, f) for n, f in chosen.items() if f):
        dims = model.graph.initializers[name].const_value.dims
        assert ints.dims == dims
        assert scales.dims == (dims[0], dims[1] // 32)


def kl(model) -> float:
    """Mean divergence from the unquantized graph, on the calibration's own tokens."""
    total = []
    for window in WINDOWS:
        p, q = (torch.from_numpy(interpreter.logits(m, window.tolist())).log_softmax(-1) for m in (graph(SPEC), model))
        total.append(float((p.exp() * (p - q)).sum(-1).mean()))
    return float(np.mean(total))


def test_calibrated_integers_are_better_than_estimated_ones(calibration: Calibration) -> None:
    model = graph(SPEC)
    known = equalize(model, calibration)
    ours = apply_recipe(model, PORTABLE_RECIPES["int4"], calibrated=known)
    assert kl(ours) < 0.7 * kl(apply_recipe(graph(SPEC), PORTABLE_RECIPES["int4"]))


def test_a_graph_that_was_equalized_keeps_its_logits(calibration: Calibration) -> None:
    model, ids = graph(SPEC), WINDOWS[0].tolist()
    equalize(model, calibration)
    reference = interpreter.logits(graph(SPEC), ids)
    assert np.abs(interpreter.logits(model, ids) - reference).max() <= 1e-5 * reference.std()


def test_energies_of_the_equalized_graph_are_those_of_its_inputs(calibration: Calibration) -> None:
    model = graph(SPEC)
    known = equalize(model, calibration)
    found = known.energies["layers.1.feed_forward.w2.weight"]
    np.testing.assert_allclose(found, measured(model, "layers.1.feed_forward.swiglu"), rtol=1e-4)


# --- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_stages", [1, 4, 7])
def test_an_interrupted_run_goes_on_where_it_stopped(n_stages: int, tmp_path: Path, calibration: Calibration) -> None:
    first = Run(graph(SPEC), WINDOWS, everywhere(graph(SPEC)), tmp_path).finish(silent)
    done = [next(first) for _ in range(n_stages)]
    stamps = [path.stat().st_mtime_ns for path in done]
    del first
    again = calibrated(tmp_path)
    assert [path.stat().st_mtime_ns for path in done] == stamps
    assert (tmp_path / "calibration.safetensors").read_bytes() == calibration.path.read_bytes()
    assert again.has(INT4)


def test_what_a_stage_no_longer_needs_is_removed(tmp_path: Path) -> None:
    model = graph(SPEC)
    for stage, _ in zip(stages(model), Run(model, WINDOWS, everywhere(model), tmp_path).finish(silent), strict=True):
        kept = {f"{value.name}.npy" for value in stage.exit}
        assert {path.name for path in (tmp_path / "full").iterdir()} == kept


def test_a_run_for_energies_only_rounds_nothing(tmp_path: Path, calibration: Calibration) -> None:
    paths = list(Run(graph(SPEC), WINDOWS, {}, tmp_path).finish(silent))
    file.join(tmp_path / "energies.safetensors", paths, ORIGIN)
    found = Calibration(tmp_path / "energies.safetensors")
    assert not found.has(INT4)
    for name, energy in calibration.energies.items():
        assert np.array_equal(found.energies[name], energy)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "size", "culprit"),
    [
        ("layers.1.feed_forward.w3.weight", 3e38, "layers.1.feed_forward"),
        ("layers.0.attention_norm.weight", 1e25, "layers.0.attention_norm"),  # finite, and its squares are not
    ],
)
def test_activations_that_overflow_are_named(weight: str, size: float, culprit: str, tmp_path: Path) -> None:
    model = graph(SPEC.replace(dtype="float32"))
    value = model.graph.initializers[weight]
    signs = np.sign(np.random.default_rng(0).standard_normal(value.const_value.dims))
    value.const_value = from_array(weight, (size * signs).astype(np.float32))
    with pytest.raises(CalibrationError) as caught:
        list(Run(model, WINDOWS, everywhere(model), tmp_path).finish(silent))
    assert f"the output of {culprit}" in caught.value.message
    assert "is not finite" in caught.value.message


def test_a_calibration_of_another_shape_is_refused(calibration: Calibration) -> None:
    with pytest.raises(CalibrationError, match="another model"):
        equalize(graph(SPEC.replace(dim=128)), calibration)


@pytest.mark.parametrize("damage", ["text", "truncated", "other safetensors"])
def test_a_file_that_is_no_calibration_is_refused(damage: str, tmp_path: Path, calibration: Calibration) -> None:
    path = tmp_path / "bad.safetensors"
    if damage == "text":
        path.write_text("not a calibration")
    elif damage == "truncated":
        path.write_bytes(calibration.path.read_bytes()[:-5])
    else:
        file.write(path, {"x": np.zeros(3, np.float32)})
    with pytest.raises(CalibrationError):
        Calibration(path)


# --- texts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_source(str(write_huggingface(tmp_path_factory.mktemp("model"), SPEC)), SourceOptions()).tokenizer


def test_windows_begin_with_the_start_token_and_cover_the_text(tokenizer: Tokenizer) -> None:
    stream = list(range(100, 10_100))
    found = texts.windows([stream[:5000], stream[5000:]], tokenizer, 4096, 512)
    assert found.shape == (8, 512)
    start = 1 if tokenizer.add_bos else 0
    assert (found[:, 0] == tokenizer.bos_id).all() or not start
    assert found[0, start] == 100
    assert found[-1, -1] >= 10_100 - 8


def test_a_text_that_is_too_short_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(CalibrationError) as caught:
        texts.windows([[5] * 1000], tokenizer, 4096, 512)
    assert "too short" in caught.value.message
    assert caught.value.found == "1000 tokens"


def test_jsonl_holds_texts_strings_and_conversations(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('"one"\n\n{"text": "two"}\n', encoding="utf-8")
    assert texts.documents(str(path), tokenizer) == [tokenizer.encode("one"), tokenizer.encode("two")]
    path.write_text('{"title": "no text"}\n', encoding="utf-8")
    with pytest.raises(CalibrationError, match="line 1 is no document"):
        texts.documents(str(path), tokenizer)


def test_a_file_that_is_not_there_or_no_text_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.txt", "bytes.txt"):
        with pytest.raises(CalibrationError, match="cannot be read as text"):
            texts.documents(str(tmp_path / name), tokenizer)


def test_the_shipped_text_is_long_enough(tokenizer: Tokenizer) -> None:
    (document,) = texts.documents(texts.BUILTIN, tokenizer)
    assert texts.windows([document], tokenizer, 8192, 512).size == 8192


# --- importance matrices -----------------------------------------------------------------------------------------


def test_an_importance_matrix_gives_the_energies_back(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    imatrix.write(path, calibration.energies, ORIGIN)
    shapes = {name: (0, len(energy)) for name, energy in calibration.energies.items()}
    found = imatrix.read(path, shapes, SPEC.n_layers)
    assert set(found) == set(calibration.energies)
    assert all(np.array_equal(found[name], energy) for name, energy in calibration.energies.items())


def test_an_importance_matrix_of_another_model_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    imatrix.write(path, calibration.energies, ORIGIN)
    shapes = {name: (0, len(energy) + 1) for name, energy in calibration.energies.items()}
    with pytest.raises(CalibrationError, match="another model"):
        imatrix.read(path, shapes, SPEC.n_layers)


def test_the_file_says_where_it_comes_from(calibration: Calibration) -> None:
    assert calibration.origin == ORIGIN
    header = calibration.path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    stored = json.loads(header[8 : 8 + length])["__metadata__"]
    assert json.loads(stored[file.METADATA]) == ORIGIN.to_dict()
