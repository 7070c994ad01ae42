"""The loop: what a step is; a run that was interrupted gives the same bits, one that is shared out the same numbers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from exporter import targets
from exporter.errors import OutputError
from exporter.prune_guard.fake_quant import grids
from exporter.prune_guard.lessons import Lesson, lessons
from exporter.prune_guard.parallel import World, processes
from exporter.prune_guard.sequences import Passage
from exporter.prune_guard.student import Student, weights_of
from exporter.prune_guard.teacher import Soft
from exporter.prune_guard.training import Settings, Training, learning_rate
from exporter.prune_guard.unfinished import Unfinished
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph, token_ids

SPEC = TinySpec(dim=64, ffn_dim=128, head_dim=16, dtype="float32")
SETTINGS = Settings(steps=6, batch=4, micro_batch=2, learning_rate=3e-3)
PASSAGES = [Passage(token_ids(SPEC.vocab_size, n, n)) for n in (9, 17, 5, 12, 20)]
LESSONS = lessons(PASSAGES, SPEC.config)

Weights = dict[str, npt.NDArray[np.float32]]


class Loud:
    """A teacher that always says the first three rows."""

    def __getitem__(self, index: int) -> Soft:
        n = len(LESSONS[index].wanted)
        log_p = torch.tensor([0.5, 0.3, 0.1]).log().expand(n, -1)
        return Soft(torch.arange(3).expand(n, -1), log_p, torch.full((n,), 0.1).log())


def training(
    settings: Settings = SETTINGS, found: list[Lesson] = LESSONS, world: World | None = None, teacher: bool = True
) -> Training:
    world, model = world or World(), graph(SPEC)
    on = grids(model, targets.get("executorch").quant("int4"))
    return Training(world.shard(Student(model, on)), found, Loud() if teacher else None, settings, world)


def weights(run: Training) -> Weights:
    return {name: np.array(array) for name, array in weights_of(run.state()["model"]).items()}


def trained(run: Training, n_steps: int) -> Training:
    for _ in range(n_steps):
        run.step()
    return run


def equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# --- Steps -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_student_approaches_its_teacher() -> None:
    settings = Settings(steps=12, batch=5, micro_batch=5, learning_rate=2e-2, cross_entropy=0)
    run = training(settings)
    before = run.measure(LESSONS, Loud()).kl
    after = trained(run, 12).measure(LESSONS, Loud()).kl
    assert before is not None
    assert after is not None
    assert after < before / 5


@pytest.mark.slow
def test_without_a_teacher_it_learns_the_text() -> None:
    settings = Settings(steps=12, batch=5, micro_batch=5, learning_rate=2e-2)
    run = training(settings, teacher=False)
    before = run.measure(LESSONS, None)
    after = trained(run, 12).measure(LESSONS, None)
    assert (before.kl, after.kl) == (None, None)
    assert after.cross_entropy < before.cross_entropy / 2


def test_how_a_batch_is_cut_into_pieces_does_not_matter() -> None:
    found = []
    for micro_batch in (1, 3, 4):
        run = training(Settings(steps=6, batch=4, micro_batch=micro_batch))
        losses = run.step().losses
        found.append((losses.kl, losses.cross_entropy, *(array.sum() for array in weights(run).values())))
    assert np.allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert np.allclose(found[0], found[2], rtol=1e-4, atol=1e-4)


def test_bfloat16_products_are_near_and_weights_stay_float32() -> None:
    exact, near = (training(Settings(steps=6, batch=4, bf16=bf16)) for bf16 in (False, True))
    a, b = exact.step().losses, near.step().losses
    assert a.cross_entropy == pytest.approx(b.cross_entropy, rel=0.02)
    assert a.cross_entropy != b.cross_entropy
    assert {array.dtype for array in weights(near).values()} == {np.dtype(np.float32)}


def test_every_lesson_has_its_turn_before_any_has_two() -> None:
    run = training(Settings(steps=50, batch=3))
    turns = [index for step in range(5) for index in run._batch(step)]
    assert [sorted(turns[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert turns[:5] != turns[5:10]


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    settings = Settings(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 1e-3


# --- Going on ----------------------------------------------------------------------------------------------------


def test_a_run_that_was_interrupted_gives_the_same_bits(tmp_path: Path) -> None:
    whole = weights(trained(training(), 6))
    unfinished = Unfinished(tmp_path)
    unfinished.save("key", trained(training(), 3).state())
    again = training()
    state = unfinished.load("key")
    assert state is not None
    again.load(state)
    assert again.step_number == 3
    assert equal(weights(trained(again, 3)), whole)
    assert not equal(weights(trained(training(), 3)), whole)


def test_without_the_moments_of_the_optimizer_it_would_not() -> None:
    """The negative control of the last test."""
    half = trained(training(), 3)
    again = training()
    again.student.load_state_dict(half.student.state_dict())
    again.step_number = 3
    assert not equal(weights(trained(again, 3)), weights(trained(half, 3)))


def test_a_state_of_another_run_is_refused_or_removed(tmp_path: Path) -> None:
    Unfinished(tmp_path).save("key", {"step": 3})
    with pytest.raises(OutputError, match="holds another training"):
        Unfinished(tmp_path).load("other")
    assert Unfinished(tmp_path, force=True).load("other") is None
    assert Unfinished(tmp_path).load("other") is None


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path)
    unfinished.save("key", {"step": 3})
    (path,) = unfinished.folder.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OutputError, match=r"checkpoint\.pt cannot be read"):
        unfinished.load("key")


def test_a_state_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = Unfinished(tmp_path)
    unfinished.save("key", {"step": 3})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match="cannot be written"):
        unfinished.save("key", {"step": 4})
    assert unfinished.load("key") == {"key": "key", "step": 3}
    assert len(list(unfinished.folder.iterdir())) == 1


# --- Several processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """FSDP2 over gloo: the weights of a process alone, up to the order of sums; one goes on from the other's state."""
    out = tmp_path / "weights.npz"
    with socket.socket() as found_free:
        found_free.bind(("127.0.0.1", 0))
        port = found_free.getsockname()[1]
    # Forked: importing torch once more takes longer than the rest.
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=one_of_two, args=(rank, port, out, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=240)
    assert [process.exitcode for process in both] == [0, 0]
    alone = trained(training(), 3)
    found = dict(np.load(out))
    assert found.keys() == weights(alone).keys()
    for name, array in weights(alone).items():
        assert np.abs(found[name] - array).max() < 1e-5, name
    state = Unfinished(tmp_path).load("key")
    assert state is not None
    again = training()
    again.load(state)
    assert again.step_number == 3
    assert equal(weights(again), found)


def one_of_two(rank: int, port: int, out: Path, folder: Path) -> None:
    """What each of the two processes does, in an environment as torchrun makes it."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    with processes() as world:
        assert world.size == 2
        run = trained(training(world=world), 3)
        state = run.state()
        if world.is_first:
            np.savez(out, **weights_of(state["model"]))  # type: ignore[arg-type]
            Unfinished(folder).save("key", state)
        assert all(parameter.placements[0].is_shard() for parameter in run.student.parameters())  # type: ignore[attr-defined]
        world.wait()
        # What was saved is what each goes on from.
        again = training(world=world)
        loaded = Unfinished(folder).load("key")
        assert loaded is not None
        again.load(loaded)
        whole = trained(again, 1).state()["model"], trained(run, 1).state()["model"]
        if world.is_first:
            assert equal(*map(weights_of, whole))
