"""Meta's quantized checkpoints as programs: the same integers, the same function, and every seeded fault is found."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from exporter.artifact import MANIFEST
from exporter.divergence import compare
from exporter.errors import GraphError
from exporter.ir import interpreter
from exporter.quant.packing import unpack_4
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import lower, reading, scales, xnnpack
from exporter.targets.executorch import weights as encoding
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.target import EXECUTORCH
from exporter.tensors import RowTensor
from tests.executorch.support import Export, export, relative
from tests.fixtures.models import TinySpec
from tests.fixtures.prequantized import SPECS, Flavour, stored_tensors, write_prequantized
from tests.ir.graphs import token_ids
from tests.oracles import quantized_llama
from tests.pipeline.harness import run

FLAVOURS = list(SPECS)
TOLERANCE = 1e-4
"""Of the logits' standard deviation, in float32."""
IDS = token_ids(SPECS["qlora"].vocab_size, 40)

Folder = Callable[[TinySpec], Path]
Programs = Callable[[Flavour, str], Export]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return functools.cache(lambda spec: write_prequantized(tmp_path_factory.mktemp("meta") / "tiny", spec))


@pytest.fixture(scope="module")
def programs(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return functools.cache(lambda f, quant: export(folder(SPECS[f]), tmp_path_factory.mktemp("executorch"), quant))


# --- The weights -------------------------------------------------------------------------------------------------


def half_rows(name: str, array: np.ndarray[Any, Any], spec: TinySpec) -> np.ndarray[Any, Any]:
    """The rows of queries and keys as XNNPACK wants them: first the even ones of a head, then the odd ones."""
    if ".wq." not in name and ".wk." not in name:
        return array
    heads = array.reshape(-1, spec.head_dim // 2, 2, *array.shape[1:])
    return heads.swapaxes(1, 2).reshape(array.shape)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_file_holds_the_published_integers_and_their_scales(flavour: Flavour, programs: Programs) -> None:
    file, spec = PteFile(programs(flavour, "int4").path), SPECS[flavour]
    stored = stored_tensors(spec)
    for name, ints in stored.items():
        if ints.dtype != np.int8:
            continue
        published = half_rows(name, stored[name.replace(".weight", ".scales")], spec)
        if name == "tok_embeddings.weight":
            found, steps = file.tensors[f"{name}.ints"], file.tensors[f"{name}.scales"]
        else:
            found, steps = file.named[f"{name}.ints"], file.named[f"{name}.scales"]
        if name in ("tok_embeddings.weight", "output.weight"):
            assert found.tobytes() == ints.tobytes()
            assert steps.tobytes() == published.tobytes()
        else:
            assert np.array_equal(unpack_4(found.reshape(len(ints), -1)), half_rows(name, ints, spec)), name
            assert steps.tobytes() == published.astype(ml_dtypes.bfloat16).tobytes(), name


def test_the_adaptors_are_metas_numbers(programs: Programs) -> None:
    file, spec = PteFile(programs("qlora", "int4").path), SPECS["qlora"]
    for name, array in stored_tensors(spec).items():
        if ".adaptor." in name:
            expected = array if name.endswith("A.weight") else half_rows(name, array, spec)
            assert np.array_equal(file.named[name].view(np.float32).reshape(array.shape), expected.astype(np.float32))
    assert file.tensors["lora_scale"] == [np.float32(spec.lora_scale)]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_user_hears_what_became_of_the_scales(flavour: Flavour, programs: Programs) -> None:
    stored = stored_tensors(SPECS[flavour])
    published = np.concatenate([a.ravel() for n, a in stored.items() if n.endswith("scales") and a.shape[1] > 1])
    change = np.abs(published.astype(ml_dtypes.bfloat16).astype(np.float32) / published - 1).max()
    note = programs(flavour, "int4").plan.notes[0]
    assert "the 4-bit integers are the checkpoint's own" in note
    assert f"rounded to bfloat16, by {change:.2%} at most" in note
    assert not [text for text in programs(flavour, "f32").plan.notes if "bfloat16" in text]


def test_scales_that_bfloat16_holds_stay(folder: Folder) -> None:
    source = open_source(str(folder(SPECS["qlora"])), SourceOptions())
    model = source.graph()
    names = {str(value.name) for value in scales.quantized_weights(model)}
    assert scales.fit_scales(model, names).n_rounded > 0
    again = scales.fit_scales(model, names)
    assert (again.n_rounded, again.largest) == (0, 0.0)
    assert again.notes == ("the 4-bit integers are the checkpoint's own, and so are their scales",)


def test_our_own_integers_are_not_read_for_it(huggingface_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scales are exact, and reading them would quantize the model twice."""
    monkeypatch.setattr(scales, "_measured", lambda *_: pytest.fail("scales were read"))
    source = open_source(str(huggingface_folder(TinySpec())), SourceOptions())
    assert not [n for n in EXECUTORCH.plan(source.subject(), "int4", Options()).notes if "bfloat16" in n]


@pytest.mark.parametrize("quant", ["int8", "int8w", "int4-g64", "int4-e4g32"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_other_integers_are_chosen(quant: str, flavour: Flavour, folder: Folder) -> None:
    source = open_source(str(folder(SPECS[flavour])), SourceOptions())
    with pytest.raises(GraphError, match="is quantized already") as refusal:
        EXECUTORCH.plan(source.subject(), quant, Options())
    assert "bf16 checkpoint" in str(refusal.value.hint)


def test_a_checkpoint_in_groups_of_64_is_the_row_of_that_name(tmp_path: Path) -> None:
    """Every other row is refused, so that the name always says what is in the file."""
    folder = write_prequantized(tmp_path / "tiny", SPECS["qlora"])
    params = json.loads((folder / "params.json").read_text())
    params["quantization_args"]["group_size"] = 64
    (folder / "params.json").write_text(json.dumps(params))
    stored = torch.load(folder / "consolidated.00.pth", weights_only=True)
    wide = {n: t[:, ::2].clone() for n, t in stored.items() if n.endswith("scales") and t.shape[1] > 1}
    torch.save(stored | wide, folder / "consolidated.00.pth")
    source = open_source(str(folder), SourceOptions())
    assert EXECUTORCH.plan(source.subject(), "int4-g64", Options()).expected
    with pytest.raises(GraphError, match="is quantized already"):
        EXECUTORCH.plan(source.subject(), "int4", Options())


# --- The function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_float32_logits_are_the_oracles(flavour: Flavour, programs: Programs) -> None:
    """``f32`` is the same program with decoded weights and nothing rounded: it proves transform and adaptors."""
    expected = quantized_llama.logits(SPECS[flavour], IDS)
    exported = programs(flavour, "f32")
    assert relative(interpreter.logits(exported.source.graph(), IDS), expected) < TOLERANCE
    assert relative(exported.load().logits(IDS, 30), expected[29:]) < TOLERANCE


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_4_bit_logits_differ_by_the_rounding_of_activations_and_scales_only(
    flavour: Flavour, programs: Programs
) -> None:
    expected = quantized_llama.logits(SPECS[flavour], IDS).astype(np.float32)
    found = programs(flavour, "int4").load().logits(IDS, 30)
    assert compare(expected[29:], found, IDS[29:]).mean_kl < 1e-3


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.slow
def test_float32_logits_are_those_of_executorchs_own_model(
    flavour: Flavour, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of executorch's examples loads the same file with its own transformations. Its adaptors' scale is 2."""
    spec = SPECS[flavour].replace(lora_scale=2.0 if SPECS[flavour].lora_rank else 0.0)
    expected = _executorchs_own(folder(spec), spec, monkeypatch)
    assert relative(export(folder(spec), tmp_path).load().logits(IDS, 30), expected[29:]) < TOLERANCE


def _executorchs_own(folder: Path, spec: TinySpec, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """Logits of ``Llama2Model``, configured as its ``llama_xnnpack_spinquant.yaml`` and ``llama_xnnpack_qat.yaml`` do.

    But its activations stay as they are: how two implementations round them is no question here.
    """
    from executorch.examples.models.llama.model import Llama2Model
    from executorch.examples.models.llama.source_transformation import spin_quant
    from executorch.extension.llm.custom_ops import custom_ops  # registers the kernel  # noqa: F401
    from executorch.extension.llm.export.config import llm_config as configuration
    from torchao.quantization import linear_quant_modules, utils

    for module in (linear_quant_modules, utils):
        monkeypatch.setattr(module, "per_token_dynamic_quant", lambda x, **_: x)
    config = configuration.LlmConfig()
    config.base.checkpoint, config.base.params = str(folder / "consolidated.00.pth"), str(folder / "params.json")
    config.base.model_class = configuration.ModelType.llama3_2
    config.base.preq_mode = configuration.PreqMode.preq_8da4w_out_8da8w
    config.base.preq_group_size, config.base.preq_embedding_quantize = 32, "8,0"
    config.model.dtype_override = configuration.DtypeOverride.fp32
    config.debug.generate_full_logits = True
    config.export.max_seq_length = config.export.max_context_length = 128
    if spec.ffn_hadamard:
        config.quantization.use_spin_quant = configuration.SpinQuant.native
    else:
        config.quantization.use_qat, config.base.use_lora = True, spec.lora_rank
    model = Llama2Model(config).get_eager_model().to(torch.float32)
    if spec.ffn_hadamard:
        model = spin_quant.inject_fast_hadamard_transform_native_for_spin_quant(model)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model(torch.tensor([IDS]))[0].reshape(len(IDS), -1).numpy()
    return found


def test_phones_have_the_kernel(programs: Programs) -> None:
    """The pre-flight has passed; this is what an app must link."""
    requires = programs("spinquant", "int4").plan.requires
    assert "llama::fast_hadamard_transform.out" in requires["operators"]
    assert "kernels_llm" in requires["runtimes"]["ios-1.4.0"]
    assert "llama::fast_hadamard_transform.out" not in programs("qlora", "int4").plan.requires["operators"]


# --- Through the whole pipeline ----------------------------------------------------------------------------------


def checks(out: Path) -> dict[str, dict[str, bool]]:
    """Row -> check -> whether it passed."""
    artifacts = json.loads((out / MANIFEST).read_text())["artifacts"]
    return {a["quant"]: {c["name"]: c["passed"] for c in a["parity"]["checks"]} for a in artifacts}


@pytest.mark.slow
@pytest.mark.parametrize(("flavour", "tied"), [("spinquant", False), ("qlora", True)])
def test_it_passes_and_can_be_verified_again(flavour: Flavour, tied: bool, folder: Folder, tmp_path: Path) -> None:
    model, out = folder(SPECS[flavour].replace(tied=tied)), tmp_path / "out"
    target = ("export", model, "--target", "executorch", "--out", out)
    predicted = run(*target, "--quant", "int4", "--quant", "f32", "--dry-run", "--format", "json").json["artifacts"]
    outcome = run(*target, "--quant", "int4", "--quant", "f32")
    assert outcome.code == 0, outcome.stderr
    assert "the 4-bit integers are the checkpoint's own" in " ".join(outcome.stderr.split())
    artifacts = json.loads((out / MANIFEST).read_text())["artifacts"]
    made = {a["quant"]: [f["bytes"] for f in a["files"]] for a in artifacts}
    assert made == {a["quant"]: [f["bytes"] for f in a["files"]] for a in predicted}
    config = json.loads((out / MANIFEST).read_text())["model"]["config"]
    assert (config["ffn_hadamard"], config["lora_rank"]) == (SPECS[flavour].ffn_hadamard, SPECS[flavour].lora_rank)
    assert run("verify", out).code == 0


Fault = Callable[[pytest.MonkeyPatch], None]


def no_transform(patch: pytest.MonkeyPatch) -> None:
    """The Hadamard transform is left out."""
    patch.setitem(lower.RULES, "Hadamard", lambda low, node: low.define(node.outputs[0], low.operand(node.inputs[0])))


def blinded(fault: Fault, **seen: object) -> Fault:
    """The reader finds what it should, whatever the program computes: the logits alone must tell."""

    def both(patch: pytest.MonkeyPatch) -> None:
        fault(patch)
        read = reading.read_config
        patch.setattr(reading, "read_config", lambda *a: read(*a).replace(**seen))

    return both


def transform_of_the_first_layer_only(patch: pytest.MonkeyPatch) -> None:
    rule = lower.RULES["Hadamard"]

    def first(low: Any, node: Any) -> None:
        if node.name.startswith("layers.0."):
            rule(low, node)
        else:
            low.define(node.outputs[0], low.operand(node.inputs[0]))

    patch.setitem(lower.RULES, "Hadamard", first)


def transform_that_is_not_normalized(patch: pytest.MonkeyPatch) -> None:
    """As a kernel without the last division would leave it: the reader cannot see it."""
    rule = lower.RULES["Hadamard"]

    def larger(low: Any, node: Any) -> None:
        rule(low, node)
        x = low.operand(node.outputs[0])
        low.define(node.outputs[0], low.graph.add(x, x))

    patch.setitem(lower.RULES, "Hadamard", larger)


def wrong_scale_of_the_adaptors(patch: pytest.MonkeyPatch) -> None:
    """The scale that executorch's own exporter always takes, whatever ``lora_args`` say."""
    made = lower.from_array

    def two(name: str, array: np.ndarray[Any, Any]) -> RowTensor:
        return made(name, np.full_like(array, 2) if name == lower.LORA_SCALE else array)

    patch.setattr(lower, "from_array", two)


def no_adaptors(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(lower.RULES, "LoRA", lambda low, node: low.define(node.outputs[0], low.operand(node.inputs[0])))


def adaptor_rows_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """The adaptors of query and key keep the order that only an interleaved rotation understands."""
    product = lower._product

    def plain(low: Any, weight: Any, x: int, order: Any, *, head: bool = False) -> int:
        return product(low, weight, x, None if ".adaptor." in weight.name else order, head=head)

    patch.setattr(lower, "_product", plain)


def swapped_scales(patch: pytest.MonkeyPatch) -> None:
    """``w1`` and ``w3`` of each layer have each other's scales, in the file and in what is expected of it."""
    round_them = scales.fit_scales

    def swap(model: Any, chosen: Any) -> Any:
        found = round_them(model, chosen)
        named = model.graph.initializers
        for layer in range(2):
            a, b = (named[f"layers.{layer}.feed_forward.{w}.weight.scales"] for w in ("w1", "w3"))
            a.const_value, b.const_value = b.const_value, a.const_value
        return found

    patch.setattr("exporter.targets.executorch.plan.fit_scales", swap)


def swapped_scales_in_the_file(patch: pytest.MonkeyPatch) -> None:
    """The same, in the file alone."""
    encode, kept = encoding.int4_groups, {}

    def swap(name: str, ints: RowTensor, steps: RowTensor) -> Any:
        kept[name] = steps
        other = name.replace("w3", "w1")
        return encode(name, ints, kept[other])

    patch.setattr(xnnpack, "int4_groups", swap)


def truncated_scales(patch: pytest.MonkeyPatch) -> None:
    """bfloat16 by cutting bits off, in the file and in what is expected of it."""

    def cut(exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    patch.setattr(scales, "_to_bfloat16", cut)


def other_integers(patch: pytest.MonkeyPatch) -> None:
    """One integer of each matrix is its neighbour, in the file and in what is expected of it."""
    parts = xnnpack.quantized_parts

    def changed(value: Any) -> Any:
        ints, steps, block = parts(value)

        def read(start: int, stop: int) -> Any:
            rows = ints.rows(start, stop).copy()
            rows[0, 0] += 1 if rows[0, 0] < 7 else -1
            return rows

        return RowTensor(str(ints.name), ints.dtype, ints.dims, read), steps, block

    patch.setattr(lower, "quantized_parts", changed)
    patch.setattr(xnnpack, "quantized_parts", changed)
    patch.setattr("exporter.ir.weights.quantized_parts", changed)


SEEN = {"ffn_hadamard": True}
FAULTS: dict[str, tuple[Flavour, str, Fault, str]] = {
    "no Hadamard transform": ("spinquant", "int4", no_transform, "metadata"),
    "no Hadamard transform, unseen": ("spinquant", "int4", blinded(no_transform, **SEEN), "logits"),
    "no Hadamard transform, float32": ("spinquant", "f32", blinded(no_transform, **SEEN), "logits"),
    "a Hadamard transform in one layer": ("spinquant", "f32", transform_of_the_first_layer_only, "loads"),
    "a Hadamard transform of another size": ("spinquant", "f32", transform_that_is_not_normalized, "logits"),
    "the scale of the adaptors": ("qlora", "int4", wrong_scale_of_the_adaptors, "metadata"),
    "the scale of the adaptors, unseen": (
        "qlora",
        "f32",
        blinded(wrong_scale_of_the_adaptors, lora_scale=1.5),
        "logits",
    ),
    "no adaptors": ("qlora", "int4", no_adaptors, "rounding"),
    "adaptors with their rows in another order": ("qlora", "int4", adaptor_rows_in_another_order, "weights"),
    "scales of two matrices exchanged": ("spinquant", "int4", swapped_scales, "rounding"),
    "scales exchanged in the file": ("qlora", "int4", swapped_scales_in_the_file, "weights"),
    "scales cut off instead of rounded": ("qlora", "int4", truncated_scales, "rounding"),
    "an integer off by one": ("spinquant", "int4", other_integers, "rounding"),
}
"""What is wrong -> the checkpoint and row it is tried on, the fault, and the check that must find it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_the_verdict(name: str, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flavour, quant, fault, check = FAULTS[name]
    model = folder(SPECS[flavour])
    fault(monkeypatch)
    outcome = run("export", model, "--target", "executorch", "--quant", quant, "--out", tmp_path / "out")
    assert outcome.code == 3, outcome.stderr
    assert checks(tmp_path / "out")[quant][check] is False
