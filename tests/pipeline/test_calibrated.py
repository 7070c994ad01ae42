"""``--calibrate``: integers chosen once, the same on every target, proved again without a second run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exporter import calibration as job
from exporter import targets
from exporter.quant.calibration.file import Calibration
from exporter.quant.calibration.run import Run
from exporter.quant.schemes import INT4
from tests.fixtures.models import TinySpec, write_huggingface
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import Outcome, export, manifest, run, tensors

pytestmark = needs_llama_cpp

SPEC = TinySpec(dim=128, head_dim=32, ffn_dim=128, n_layers=2)
TOKENS = ("--calibration-tokens", 4096)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs are kept while they are not finished."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "exporter" / "calibration"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("source") / "tiny", SPEC)


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    assert export(source, out, "int4", "q4_k_m", "q8_0", options=("--calibrate", "builtin", *TOKENS)).code == 0
    return out


def calibrate(source: Path, out: Path, text: object, *quants: str, check: bool = False) -> Outcome:
    return export(source, out, *(quants or ("int4",)), check=check, options=("--calibrate", text, *TOKENS))


def test_every_target_decodes_the_same_weights(source: Path, tmp_path: Path) -> None:
    names = [name for name in ("gguf", "onnx", "executorch") if all(targets.get(name).runtime_versions().values())]
    assert len(names) > 1
    chosen = [part for name in names for part in ("--target", name)]
    out = tmp_path / "out"
    arguments = ("--quant", "int4", "--no-verify", "--calibrate", "builtin", *TOKENS)
    outcome = run("export", source, *chosen, *arguments, "--out", out)
    assert outcome.code == 0, outcome.stderr
    weights = {
        artifact["target"]: targets.get(artifact["target"])
        .read_back([out / file["path"] for file in artifact["files"]])
        .weights
        for artifact in manifest(out)["artifacts"]
    }
    first = weights.pop("gguf")
    assert len(weights) == len(names) - 1
    layers = [name for name in first if name.startswith("layers.")]
    assert len(layers) == 9 * SPEC.n_layers
    for found in weights.values():
        for name in layers:
            a, b = (w[name].rows_f32(0, w[name].n_rows) for w in (first, found))
            assert np.array_equal(a.view(np.uint32), b.view(np.uint32)), name


def test_the_integers_are_those_of_the_calibration_file(exported: Path) -> None:
    (path,) = (exported / "calibration").iterdir()
    weights = targets.get("gguf").read_back([exported / "gguf/tiny-INT4.gguf"]).weights
    ints, scales = Calibration(path).integers("layers.1.feed_forward.w2.weight", INT4) or (None, None)
    assert ints is not None and scales is not None
    decoded = ints.rows(0, 128).reshape(128, -1, 32) * scales.rows(0, 128)[:, :, None]
    assert np.array_equal(weights["layers.1.feed_forward.w2.weight"].rows_f32(0, 128), decoded.reshape(128, -1))


def test_the_manifest_says_what_chose_the_integers(exported: Path) -> None:
    by_quant = {artifact["quant"]: artifact for artifact in manifest(exported)["artifacts"]}
    assert "calibration" not in by_quant["q8_0"]
    assert by_quant["int4"]["calibration"] == by_quant["q4_k_m"]["calibration"]
    found = by_quant["int4"]["calibration"]
    assert (found["text"], found["n_tokens"], found["window"]) == ("builtin", 4096, 512)
    assert found["method"] == job.METHOD
    (shared,) = (file for file in manifest(exported)["shared_files"] if file["target"] == "calibration")
    assert shared["path"] == found["path"]
    assert (exported / found["path"]).stat().st_size == shared["bytes"]


def test_q8_0_is_what_it_is_without(exported: Path, source: Path, tmp_path: Path) -> None:
    assert export(source, tmp_path / "plain", "q8_0", "q4_k_m").code == 0
    plain, ours = tmp_path / "plain/gguf", exported / "gguf"
    assert (plain / "tiny-Q8_0.gguf").read_bytes() == (ours / "tiny-Q8_0.gguf").read_bytes()
    assert tensors(plain / "tiny-Q4_K_M.gguf") != tensors(ours / "tiny-Q4_K_M.gguf")


# --- proved again ------------------------------------------------------------------------------------------------


def test_verify_needs_no_second_run(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "finish", lambda *_: pytest.fail("calibrated again"))
    outcome = run("verify", exported, "-v")
    assert outcome.code == 0, outcome.stderr
    assert "same function: ok" in outcome.stderr


def test_a_changed_calibration_file_is_noticed(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    (path,) = (copy / "calibration").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    outcome = run("verify", copy)
    assert outcome.code == 2
    assert "is not the file that was exported" in outcome.error["error"]


def test_an_artifact_with_other_integers_than_its_calibration_fails(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    document = manifest(copy)
    (path,) = (copy / "calibration").iterdir()
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    begin, _ = header["int4g32.layers.0.attention.wq.weight.ints"]["data_offsets"]
    data[8 + length + begin] ^= 1  # one integer, by one
    path.write_bytes(data)
    for shared in document["shared_files"]:
        if shared["target"] == "calibration":
            shared["sha256"] = job.sha256_file(path)
    (copy / "manifest.json").write_text(json.dumps(document))
    outcome = run("verify", copy)
    assert outcome.code == 3
    assert "gguf int4: weights: FAILED" in outcome.stderr


# --- used again --------------------------------------------------------------------------------------------------


def test_an_export_into_the_same_folder_uses_what_is_there(
    exported: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    monkeypatch.setattr(Run, "finish", lambda *_: pytest.fail("calibrated again"))
    assert calibrate(source, copy, "builtin", "q4_0").code == 0
    assert len(list((copy / "calibration").iterdir())) == 1
    assert {a["quant"] for a in manifest(copy)["artifacts"] if "calibration" in a} == {"int4", "q4_k_m", "q4_0"}


def test_a_calibration_file_can_be_named(exported: Path, source: Path, tmp_path: Path) -> None:
    (path,) = (exported / "calibration").iterdir()
    assert calibrate(source, tmp_path / "out", path).code == 0
    first, second = (folder / "gguf/tiny-INT4.gguf" for folder in (exported, tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()


def test_another_text_replaces_the_file_that_nothing_uses_any_more(
    exported: Path, source: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    (before,) = (copy / "calibration").iterdir()
    text = tmp_path / "other.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, again and again. " * 400)
    options = ("--calibrate", text, *TOKENS, "--force")
    assert export(source, copy, "int4", options=options).code == 0
    assert before.exists(), "q4_k_m was made with it"
    assert export(source, copy, "q4_k_m", options=options).code == 0
    assert not before.exists()
    assert run("verify", copy).code == 0


def test_an_interrupted_run_goes_on(
    source: Path, exported: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Run.finish

    def interrupted(self, progress):
        for _, path in zip(range(4), finish(self, progress), strict=False):
            yield path
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "finish", interrupted)
    assert calibrate(source, tmp_path / "out", "builtin").code == 130
    assert not (tmp_path / "out").exists()
    done = {path: path.stat().st_mtime_ns for path in cache.rglob("stage-*.safetensors")}
    assert len(done) == 4
    seen = {}

    def watched(self, progress):
        for path in finish(self, progress):
            seen[path] = path.stat().st_mtime_ns
            yield path

    monkeypatch.setattr(Run, "finish", watched)
    assert calibrate(source, tmp_path / "out", "builtin").code == 0
    assert done.items() <= seen.items()
    assert not any(cache.iterdir()), "the cache keeps nothing"
    first, second = (folder / "gguf/tiny-INT4.gguf" for folder in (exported, tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()


def test_an_importance_matrix_goes_out_and_comes_in(exported: Path, source: Path, tmp_path: Path) -> None:
    (path,) = (exported / "calibration").iterdir()
    matrix = tmp_path / "imatrix.gguf"
    assert run("imatrix", path, matrix).code == 0
    outcome = calibrate(source, tmp_path / "out", matrix, "q4_k_m", check=True)
    assert outcome.code == 0, outcome.stderr
    assert manifest(tmp_path / "out")["artifacts"][0]["calibration"]["method"] == job.IMPORTED


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_quantization_that_takes_no_calibration_is_refused(source: Path, tmp_path: Path) -> None:
    outcome = calibrate(source, tmp_path / "out", "builtin", "f16")
    assert outcome.code == 2
    assert "no requested quantization" in outcome.error["error"]


def test_a_text_that_is_too_short_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    outcome = calibrate(source, tmp_path / "out", tmp_path / "short.txt")
    assert outcome.code == 2
    assert "too short" in outcome.error["error"]
    assert not (tmp_path / "out").exists()


def test_the_calibration_of_another_model_is_refused(exported: Path, tmp_path: Path) -> None:
    (path,) = (exported / "calibration").iterdir()
    other = write_huggingface(tmp_path / "other", SPEC.replace(seed=1))
    outcome = calibrate(other, tmp_path / "out", path)
    assert outcome.code == 2
    assert "the calibration of another model" in outcome.error["error"]
