"""What is kept of a teacher is what it says, and nobody asks it twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from exporter.errors import CalibrationError, TokenizerError
from exporter.ir import blockwise, interpreter
from exporter.prune_guard import teacher
from exporter.prune_guard.lessons import lessons
from exporter.prune_guard.sequences import Passage
from exporter.prune_guard.teacher import Soft, TeacherStore, require_same_tokenizer
from exporter.prune_guard.training import divergence
from exporter.prune_guard.vocabulary import narrow_head
from exporter.tokenizer import load_tokenizer_folder
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph, token_ids
from tests.prune_guard.support import KEPT

SPEC = TinySpec(dtype="float32")
PASSAGES = [Passage(token_ids(SPEC.vocab_size, n, n)) for n in (9, 17, 5, 12)]
EVERYTHING = SPEC.vocab_size


def asked(
    folder: Path, k: int, kept: tuple[int, ...] | None = None, model: ir.Model | None = None
) -> tuple[TeacherStore, list[int]]:
    """A store that has everything, and the blocks that were passed for it."""
    config = SPEC.config.replace(kept_tokens=kept)
    store = TeacherStore(folder, "teacher", lessons(PASSAGES, config), kept, k)
    passed: list[int] = []
    store.compute(model or graph(SPEC), passed.append)
    return store, passed


def said(passage: Passage, kept: tuple[int, ...] | None = None) -> torch.Tensor:
    """Log probabilities from the interpreter, where something is to be said."""
    model = graph(SPEC) if kept is None else narrow_head(graph(SPEC), kept)
    scores = torch.from_numpy(interpreter.logits(model, list(passage.tokens[:-1]))).double()
    return (scores if kept is None else scores[:, list(kept)]).log_softmax(-1)


@pytest.mark.parametrize("slab_bytes", [256 << 20, 4 * 64 * 100], ids=["whole head", "slabs"])
def test_the_most_likely_rows_and_the_rest(tmp_path: Path, slab_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "SLAB_BYTES", slab_bytes)
    store, _ = asked(tmp_path, 7)
    for i, passage in enumerate(PASSAGES):
        expected = said(passage).topk(7)
        assert torch.equal(store[i].rows, expected.indices)
        assert torch.allclose(store[i].log_p.double(), expected.values, atol=1e-4)
        rest = 1 - expected.values.exp().sum(1)
        assert torch.allclose(store[i].log_rest.exp().double(), rest, atol=1e-5)


def test_a_narrow_head_is_taught_by_the_same_tokens(tmp_path: Path) -> None:
    passage = Passage([3, 4, 100, 5, 7, 328])
    config = SPEC.config.replace(kept_tokens=KEPT)
    store = TeacherStore(tmp_path, "teacher", lessons([passage], config), KEPT, 64)
    store.compute(graph(SPEC), lambda n: None)
    wanted = [0, 1, 2, 4]  # the next token is kept
    assert torch.allclose(store[0].log_p.exp().sum(1), torch.ones(4), atol=1e-5)
    full = torch.zeros(4, len(KEPT)).scatter(1, store[0].rows, store[0].log_p)
    assert torch.allclose(full.double(), said(passage, KEPT)[wanted], atol=1e-4)
    assert torch.isneginf(store[0].log_rest).all()


def test_files_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "STREAM_BYTES", 4 * SPEC.dim * 16)
    store, passed = asked(tmp_path, 7)
    files = sorted(store.folder.iterdir())
    assert len(files) == 2
    assert sum(passed) == 2 * SPEC.n_layers
    files[1].unlink()
    again, passed = asked(tmp_path, 7)
    assert sum(passed) == SPEC.n_layers
    assert all(torch.equal(again[i].log_p, asked(tmp_path / "other", 7)[0][i].log_p) for i in range(4))


def test_another_teacher_question_or_number_is_another_store(tmp_path: Path) -> None:
    found = lessons(PASSAGES, SPEC.config)
    kept = lessons(PASSAGES, SPEC.config.replace(kept_tokens=tuple(range(500))))
    stores = [
        TeacherStore(tmp_path, "a", found, None, 7),
        TeacherStore(tmp_path, "b", found, None, 7),
        TeacherStore(tmp_path, "a", found[1:], None, 7),
        TeacherStore(tmp_path, "a", found, None, 8),
        TeacherStore(tmp_path, "a", kept, tuple(range(500)), 7),
    ]
    assert len({store.key for store in stores}) == len(stores)


# --- The divergence ----------------------------------------------------------------------------------------------


def soft(log_p: torch.Tensor, k: int) -> Soft:
    values, rows = log_p.topk(k)
    return Soft(rows, values, (1 - values.exp().sum(1)).clamp(min=0).log())


def test_with_all_rows_it_is_the_kl_divergence() -> None:
    torch.manual_seed(0)
    p, q = (torch.randn(5, 11).log_softmax(-1) for _ in range(2))
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
    assert torch.allclose(divergence(q, soft(p, 11)), expected, atol=1e-6)


def test_with_some_it_is_below_and_zero_for_who_says_the_same() -> None:
    torch.manual_seed(0)
    p, q = (torch.randn(5, 11).log_softmax(-1) for _ in range(2))
    found = [divergence(q, soft(p, k)) for k in (1, 3, 11)]
    assert (found[0] <= found[1] + 1e-6).all()
    assert (found[1] <= found[2] + 1e-6).all()
    assert (found[0] > 0).all()
    assert torch.allclose(divergence(p, soft(p, 3)), torch.zeros(5), atol=1e-6)


def test_its_gradient_reaches_the_rows_that_the_teacher_did_not_name() -> None:
    torch.manual_seed(0)
    p, logits = torch.randn(5, 11).log_softmax(-1), torch.randn(5, 11, requires_grad=True)
    divergence(logits.log_softmax(-1), soft(p, 3)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).all()


# --- Questions ---------------------------------------------------------------------------------------------------


def test_of_an_answer_only_the_answer_is_asked() -> None:
    (lesson,) = lessons([Passage([10, 11, 12, 13, 14], 3)], SPEC.config)
    assert lesson.tokens.tolist() == [10, 11, 12, 13]
    assert (lesson.wanted.tolist(), lesson.labels.tolist()) == ([2, 3], [13, 14])


def test_of_a_text_a_narrow_head_learns_where_its_tokens_follow() -> None:
    (lesson,) = lessons([Passage([3, 9, 100, 328, 7])], SPEC.config.replace(kept_tokens=KEPT))
    assert lesson.wanted.tolist() == [1, 2]
    assert [KEPT[row] for row in lesson.labels] == [100, 328]


def test_a_passage_that_was_cut_before_its_answer_is_left_out() -> None:
    assert len(lessons([Passage([1, 2, 3], 5), Passage([1, 2, 3])], SPEC.config)) == 1
    with pytest.raises(CalibrationError, match="nothing to learn"):
        lessons([Passage([1, 2, 3], 5)], SPEC.config)


def test_an_answer_that_cannot_be_said_is_refused() -> None:
    with pytest.raises(CalibrationError, match="cannot be said by the pruned head"):
        lessons([Passage([1, 2, 3, 9], 2)], SPEC.config.replace(kept_tokens=KEPT))


def test_a_teacher_with_another_tokenizer_is_refused(huggingface_folder: Callable[[TinySpec], Path]) -> None:
    mine = load_tokenizer_folder(huggingface_folder(TinySpec()))
    require_same_tokenizer(mine, mine.replace(chat_template="another", add_bos=not mine.add_bos))
    pieces = list(mine.pieces)
    pieces[300], pieces[301] = pieces[301], pieces[300]
    with pytest.raises(TokenizerError, match="another tokenizer") as error:
        require_same_tokenizer(mine, mine.replace(pieces=tuple(pieces)))
    assert "token 300" in str(error.value)
    assert f"{mine.pieces[301]!r}, not {mine.pieces[300]!r}" in str(error.value)
