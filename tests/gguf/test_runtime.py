"""llama.cpp answers, agrees with PyTorch, and fails in sentences."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes import c_int32
from pathlib import Path

import numpy as np
import pytest

from exporter.errors import RuntimeUnavailableError, TargetError
from exporter.targets.gguf import llama_cpp, runtime
from exporter.targets.gguf.runtime import LlamaCpp
from tests.gguf import tiny_gguf
from tests.gguf.tiny_gguf import BOS_ID, EOS_ID, PIECES, write_gguf

pytestmark = pytest.mark.skipif(not runtime.available(), reason="llama.cpp is not installed in a checked release")

ROOT = Path(__file__).parents[2]

WEIGHTS = tiny_gguf.random_weights()
IDS = [BOS_ID, *np.random.default_rng(1).integers(0, BOS_ID, 149).tolist()]
"""More than one batch of the worker."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny-F32.gguf", WEIGHTS)


@pytest.fixture(scope="module")
def model(path: Path) -> LlamaCpp:
    return LlamaCpp(path)


@pytest.fixture(scope="module")
def logits(model: LlamaCpp) -> np.ndarray:
    return model.logits(IDS)


class TestLogits:
    def test_are_float32_at_every_position(self, logits: np.ndarray) -> None:
        assert logits.shape == (len(IDS), len(PIECES))
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()

    def test_equal_transformers_on_the_same_weights(self, logits: np.ndarray) -> None:
        import torch

        with torch.no_grad():
            expected = tiny_gguf.transformers_model(WEIGHTS)(torch.tensor([IDS])).logits[0].numpy()
        assert np.abs(logits - expected).max() < 1e-4

    @pytest.mark.parametrize("prefill", [0, 140])
    def test_one_at_a_time_equal_those_of_a_prompt(self, model: LlamaCpp, logits: np.ndarray, prefill: int) -> None:
        assert np.abs(model.logits(IDS, prefill=prefill) - logits).max() < 1e-5

    def test_of_a_split_model_load_from_its_first_shard(self, logits: np.ndarray, tmp_path: Path) -> None:
        first = write_gguf(tmp_path / "tiny.gguf", WEIGHTS, split_max_tensors=8)
        assert first.name == "tiny-00001-of-00003.gguf"
        np.testing.assert_array_equal(LlamaCpp(first).logits(IDS), logits)

    def test_notice_another_rope_theta(self, logits: np.ndarray, tmp_path: Path) -> None:
        wrong = LlamaCpp(write_gguf(tmp_path / "theta.gguf", WEIGHTS, rope_theta=2 * tiny_gguf.ROPE_THETA))
        assert np.abs(wrong.logits(IDS) - logits).max() > 1e-1

    def test_notice_another_epsilon(self, logits: np.ndarray, tmp_path: Path) -> None:
        wrong = LlamaCpp(write_gguf(tmp_path / "eps.gguf", WEIGHTS, norm_eps=10 * tiny_gguf.NORM_EPS))
        assert np.abs(wrong.logits(IDS) - logits).max() > 1e-4

    def test_report_the_memory_of_the_child_alone(self, model: LlamaCpp, logits: np.ndarray) -> None:
        ballast = np.ones(64 << 20, np.uint8)
        model.logits(IDS[:2])
        assert 1 << 20 < model.peak_rss_bytes < 256 << 20
        if sys.platform == "linux":
            assert model.peak_anon_bytes is not None
            assert 1 << 20 < model.peak_anon_bytes <= model.peak_rss_bytes
        del ballast


class TestVocabulary:
    def test_tokens_equal_those_of_hugging_face(self, model: LlamaCpp) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        vocab = {piece: i for i, piece in enumerate(PIECES)}
        bpe = Tokenizer(models.BPE(vocab, [tuple(merge.split()) for merge in tiny_gguf.MERGES]))
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        bpe.decoder = decoders.ByteLevel()
        texts = ["hello", "hello the 1212", "ठीक है", "\x00\x7f\r\n\t  x", "👩‍👩‍👧", "it's  they'll", "", " " * 9]
        assert model.tokenize(texts) == [encoding.ids for encoding in bpe.encode_batch(texts)]
        assert model.detokenize(model.tokenize(texts)) == texts

    def test_special_tokens_are_read_and_added_only_on_request(self, model: LlamaCpp) -> None:
        (plain,) = model.tokenize(["<|end|>"])
        assert EOS_ID not in plain
        assert model.tokenize(["<|end|>"], parse_special=True) == [[EOS_ID]]
        assert model.tokenize(["<|end|>"], parse_special=True, add_special=True) == [[BOS_ID, EOS_ID]]
        assert model.detokenize([[BOS_ID, EOS_ID]]) == ["<|begin|><|end|>"]

    def test_every_end_of_generation_is_listed(self, model: LlamaCpp) -> None:
        assert model.eog_ids() == [EOS_ID]

    def test_metadata_has_every_scalar_key(self, model: LlamaCpp) -> None:
        metadata = model.metadata()
        assert metadata["general.architecture"] == "llama"
        assert metadata["llama.attention.head_count_kv"] == "2"
        assert float(metadata["llama.rope.freq_base"]) == tiny_gguf.ROPE_THETA


class TestGeneration:
    def test_is_the_greedy_path_through_the_logits(self, model: LlamaCpp) -> None:
        prompt = IDS[:140]
        generation = model.generate(prompt, n_predict=6)
        best = model.logits([*prompt, *generation.ids]).argmax(axis=-1)
        assert generation.ids == best[139:-1].tolist()
        assert generation.text == model.detokenize([generation.ids])[0]
        assert not generation.stopped
        assert generation.n_prompt == 140
        assert generation.tokens_per_second > 0

    def test_stops_where_the_model_ends_its_turn(self, model: LlamaCpp, tmp_path: Path) -> None:
        free = model.generate(IDS[:8], n_predict=6).ids
        end = free[-1]
        obedient = LlamaCpp(write_gguf(tmp_path / "eos.gguf", WEIGHTS, eos_id=end)).generate(IDS[:8], n_predict=6)
        assert obedient.stopped
        assert obedient.ids == free[: free.index(end)]

    def test_starts_from_text_as_from_its_tokens(self, model: LlamaCpp) -> None:
        text = "<|begin|>hello the"
        (ids,) = model.tokenize([text], parse_special=True)
        assert model.generate(text, n_predict=4).ids == model.generate(ids, n_predict=4).ids


class TestRefusals:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="no such GGUF file"):
            LlamaCpp(tmp_path / "absent.gguf")

    @pytest.mark.parametrize(
        ("keep", "words"),
        [
            (slice(0, -100), "data is not within the file bounds"),
            (slice(0, 300), "failed to read"),
            (slice(0), "magic"),
        ],
        ids=["weights", "metadata", "everything"],
    )
    def test_truncated_file(self, path: Path, tmp_path: Path, keep: slice, words: str) -> None:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(path.read_bytes()[keep])
        with pytest.raises(TargetError, match=r"does not load .*broken\.gguf") as error:
            LlamaCpp(broken).logits([BOS_ID])
        assert error.value.found is not None
        assert "llama.cpp said:" in error.value.found
        assert words in error.value.found

    def test_file_that_aborts_llama_cpp(self, tmp_path: Path) -> None:
        deadly = write_gguf(tmp_path / "deadly.gguf", WEIGHTS, norm_eps=-1.0)
        with pytest.raises(TargetError, match=r"died on deadly\.gguf \(SIGABRT\)") as error:
            LlamaCpp(deadly).logits([BOS_ID])
        assert error.value.found is not None
        assert "GGML_ASSERT(eps >= 0.0f) failed" in error.value.found

    def test_token_outside_the_vocabulary(self, model: LlamaCpp) -> None:
        with pytest.raises(TargetError, match="refuses tokens 0 to 1") as error:
            model.logits([BOS_ID, len(PIECES)])
        assert f"invalid token[1] = {len(PIECES)}" in str(error.value.found)

    def test_nothing_to_run(self, model: LlamaCpp) -> None:
        with pytest.raises(TargetError, match="no token"):
            model.logits([])
        with pytest.raises(TargetError, match="nothing to continue"):
            model.generate("")


class TestReleases:
    def test_the_installed_one_is_named(self) -> None:
        package, version = llama_cpp.checked()
        assert str(runtime.llama_cpp_version()).startswith(f"{package} {version} (llama.cpp ")

    def test_one_that_nobody_checked_is_refused_with_the_command_to_run(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(llama_cpp, "installed", lambda: [("xllamacpp", "2099.1.1")])
        assert not runtime.available()
        assert runtime.llama_cpp_version() == "xllamacpp 2099.1.1 (never checked)"
        with pytest.raises(RuntimeUnavailableError, match="never checked") as error:
            LlamaCpp(path)
        assert error.value.found == "xllamacpp 2099.1.1"
        assert "xllamacpp 2026.10.11549" in str(error.value.expected)
        assert error.value.hint == 'pip install "xllamacpp==2026.10.11549"'

    def test_none_at_all_is_refused_too(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(llama_cpp, "installed", list)
        assert runtime.llama_cpp_version() is None
        with pytest.raises(RuntimeUnavailableError, match="not installed"):
            LlamaCpp(path)

    @pytest.mark.parametrize("struct", ["model_params", "context_params"])
    @pytest.mark.parametrize("change", ["inserted", "removed"])
    def test_a_layout_that_is_off_by_one_field_is_refused(
        self, struct: str, change: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = llama_cpp.checked()
        fields = list(getattr(llama_cpp.RELEASES[key], struct))
        if change == "inserted":
            fields.insert(2, ("new_field", c_int32, 0))
        else:
            del fields[2]
        wrong = dataclasses.replace(llama_cpp.RELEASES[key], **{struct: tuple(fields)})
        monkeypatch.setitem(llama_cpp.RELEASES, key, wrong)
        with pytest.raises(RuntimeUnavailableError, match="memory layout") as error:
            llama_cpp.load()
        assert f"llama_{struct.removesuffix('_params')}_default_params()" in str(error.value.found)

    def test_a_library_that_does_not_load_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(_: object) -> None:
            raise OSError("libgomp.so.1: cannot open shared object file")

        monkeypatch.setitem(llama_cpp._LOADERS, llama_cpp.checked()[0], broken)
        with pytest.raises(RuntimeUnavailableError, match="does not load") as error:
            llama_cpp.load()
        assert "libgomp" in str(error.value.found)

    def test_a_library_of_another_version_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        key = llama_cpp.checked()
        wrong = dataclasses.replace(llama_cpp.RELEASES[key], llama_version="0.0.0")
        monkeypatch.setitem(llama_cpp.RELEASES, key, wrong)
        with pytest.raises(RuntimeUnavailableError, match="memory layout"):
            llama_cpp.load()


class TestChildProcess:
    def test_inherits_no_secret(self, model: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, str] = {}
        run = subprocess.run

        def spy(*args: object, **kwargs: dict[str, str]) -> object:
            seen.update(kwargs["env"])
            return run(*args, **kwargs)  # type: ignore[call-overload]

        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setattr(subprocess, "run", spy)
        model.eog_ids()
        assert "PATH" in seen
        assert "HF_TOKEN" not in seen

    def test_imports_nothing_heavy(self) -> None:
        code = "import sys, exporter.targets.gguf.llama_worker; print(*sys.modules)"
        modules = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"torch", "onnx", "onnx_ir", "numba", "gguf", "tokenizers"} & set(modules)

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the child through /proc")
    def test_dies_with_an_interrupted_parent(self, path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from exporter.targets.gguf.runtime import LlamaCpp\n"
            f"LlamaCpp(Path({str(path)!r}), n_threads=1).logits([1] * 20_000, prefill=0)"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=ROOT,
        )
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        _wait_until(lambda: children.read_text() != "", seconds=20)
        child = int(children.read_text())
        time.sleep(0.3)
        assert _is_running(child)
        os.kill(parent.pid, signal.SIGINT)
        assert parent.wait(timeout=10) != 0
        # Killed by then, but the kernel may still be at it, and nobody may have collected the remains.
        _wait_until(lambda: not _is_running(child), seconds=2)


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
class TestDemoModel:
    """SmolLM2-135M-Instruct: a real vocabulary, real weights, a real chat."""

    @pytest.fixture
    def demo(self) -> LlamaCpp:
        from tests.fixtures.downloads import smollm2_gguf

        return LlamaCpp(smollm2_gguf())

    def test_tokens_equal_those_of_hugging_face(self, demo: LlamaCpp) -> None:
        from gguf import GGUFReader
        from tokenizers import Tokenizer, models, pre_tokenizers

        fields = GGUFReader(demo.path).fields
        pieces, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
        bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [tuple(m.split(" ")) for m in merges]))
        # The published tokenizer.json of SmolLM2: single digits, then GPT-2's byte-level split.
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        texts = [
            "The capital of France is Paris.",
            "1234567 3.14159 ١٢٣ Ⅷ ½",
            "It's they'll WE'VE",
            "Élan vital — naïve façade; Straße, Größe; हिन्दी में; ภาษาไทย; 日本語のテキスト; 한국어",
            "👩‍👩‍👧‍👦 🇫🇷\u200d",
            " \t\n\n  two\r\n   spaces   ",
            "def f(x):\n    return x ** 2  # <|im_start|>",
        ]
        assert demo.tokenize(texts) == [encoding.ids for encoding in bpe.encode_batch(texts)]

    def test_ends_of_generation(self, demo: LlamaCpp) -> None:
        assert demo.detokenize([[i] for i in demo.eog_ids()]) == ["<|endoftext|>", "<|im_end|>", "<reponame>"]

    def test_says_something(self, demo: LlamaCpp) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "say.py"), str(demo.path), "Explain gravity in one sentence."]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        assert said.stdout.startswith("Gravity is a")
        assert len(said.stdout.splitlines()) == 1
        assert "tokens/s" in said.stderr
