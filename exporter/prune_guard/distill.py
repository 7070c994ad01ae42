"""The job behind ``exporter distill``: a student learns what its teacher would say, on the grids that it will run on.

The loss is the KL divergence from the teacher (Hinton et al. 2015, arXiv 1503.02531, at temperature 1) and the
cross-entropy of the text. Every fifth passage is only measured on. The result keeps float32 weights: in a shorter type
a weight near the boundary between two integers may be rounded to the other one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

import exporter
from exporter import manifest, targets
from exporter.artifact import FileHashes
from exporter.calibration import model_digest
from exporter.checkpoint.base import ModelInfo
from exporter.config import ModelConfig
from exporter.errors import OutputError
from exporter.pipeline import Reporter
from exporter.prune_guard import folder
from exporter.prune_guard.fake_quant import Grids, grids
from exporter.prune_guard.lessons import lessons
from exporter.prune_guard.parallel import World
from exporter.prune_guard.prune import parameters
from exporter.prune_guard.sequences import Calibration
from exporter.prune_guard.student import Student, put_weights, weights_of
from exporter.prune_guard.teacher import Soft, TeacherStore, require_same_tokenizer
from exporter.prune_guard.training import Losses, Settings, Training
from exporter.prune_guard.unfinished import Unfinished
from exporter.source import Source

LOG = "distillation.json"


@dataclass(frozen=True)
class Course:
    """What a student is taught, and how.

    Attributes:
        data: The passages.
        settings: Of the training.
        top_k: Rows of the teacher's distributions that are kept.
        rounds_for: Target and row whose rounding the training has; ``None`` for none.
        keeps_activations: Whether activations are kept rather than computed again.
        save_every: Steps from one saved state to the next.
        teacher_logits: Folder for the teacher's distributions; by default they go with the unfinished training.
    """

    data: Calibration
    settings: Settings
    top_k: int = 64
    rounds_for: tuple[str, str] | None = None
    keeps_activations: bool = False
    save_every: int = 50
    teacher_logits: Path | None = None


@dataclass(frozen=True)
class Named:
    """An opened model, and what the user called it.

    Attributes:
        source: The model.
        requested: Its name on the command line.
        options: What changed how it was read.
    """

    source: Source
    requested: str
    options: Mapping[str, Any]

    def entry(self, hashes: Mapping[Path, str]) -> dict[str, Any]:
        """For a manifest."""
        return manifest.source_entry(self.source.checkpoint, self.requested, dict(self.options), hashes)

    def digest(self, hashes: Mapping[Path, str]) -> str:
        files = self.source.checkpoint.files
        return model_digest({file: hashes[file] for file in files}, self.options)


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        before: The student on the held-out passages before the first step, rounded if the training rounds.
        after: The same behind the last step.
        report: The steps of the model's making, as its ``prune.json`` has them.
    """

    before: Losses
    after: Losses
    report: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Behind:
    """A store's lessons from one on."""

    store: TeacherStore
    start: int

    def __getitem__(self, index: int) -> Soft:
        return self.store[self.start + index]


def distill(
    student: Named, info: ModelInfo, memory: Mapping[str, Any] | None, teacher: Named, course: Course, out: Path,
    reporter: Reporter, world: World, *, force: bool = False, extra: Mapping[str, bytes] | None = None,
) -> Distilled:  # fmt: skip
    """Train a student and save it; a run that was interrupted goes on from its last state.

    Args:
        student: What to train.
        info: Its facts, for the model card.
        memory: What its ``prune.json`` says, if it was pruned; the result's says so too, and how it was trained.
        teacher: The model to learn from.
        course: What and how.
        out: Destination; it holds the unfinished training until everything is done.
        reporter: Progress.
        world: The processes that share the work.
        force: Whether what is there may be replaced.
        extra: More files for the result, name -> bytes.

    Raises:
        TokenizerError: The teacher's rows of the head stand for other texts.
        CalibrationError: The data teaches nothing.
        GraphError: The student is quantized, or does not fit the grids.
        TargetError: Training cannot round as the row does.
        OutputError: The destination holds something else, or cannot be written.
    """
    require_same_tokenizer(student.source.tokenizer, teacher.source.tokenizer)
    _require_divisible(course.settings, world)
    with _going_on(out):
        run = _Run(student, teacher, course, out, reporter, world, force)
        run.ask_teacher()
        before, after, log = run.train()
        memory = memory or unpruned(student.entry(run.hashes))
        report = [*memory["report"], _step(student.source.config, course, after)]
        document = {
            **memory,
            "exporter": exporter.__version__,
            "report": report,
            "recovery": {
                "teacher": teacher.entry(run.hashes),
                "data": course.data.to_dict(),
                "settings": dataclasses.asdict(course.settings),
                "top_k": course.top_k,
                "rounds_for": None if course.rounds_for is None else ":".join(course.rounds_for),
                "before": dataclasses.asdict(before),
                "after": dataclasses.asdict(after),
            },
        }
        weights = run.weights()
        if world.is_first:
            files = {**(extra or {}), LOG: json.dumps(log).encode() + b"\n"}
            _save(out, student.source, info, weights, document, files, reporter)
            run.unfinished.finish()
        world.wait()
    return Distilled(before, after, report)


class _Run:
    def __init__(
        self, student: Named, teacher: Named, course: Course, out: Path, reporter: Reporter, world: World, force: bool
    ) -> None:  # fmt: skip
        config = student.source.config
        self.unfinished = Unfinished(out, force)
        self._student, self._teacher, self._course = student, teacher, course
        self._reporter, self._world = reporter, world
        self._used = lessons(course.data.used, config)
        self._held_out = lessons(course.data.held_out, config)
        self._note_idle()
        self.hashes = _hashes([*student.source.checkpoint.files, *teacher.source.checkpoint.files], reporter)
        self._store = TeacherStore(
            course.teacher_logits or self.unfinished.folder / "teacher",
            teacher.digest(self.hashes),
            [*self._used, *self._held_out],
            config.kept_tokens,
            course.top_k,
        )
        self._training: Training | None = None

    def _note_idle(self) -> None:
        n_idle = len(self._course.data.passages) - len(self._used) - len(self._held_out)
        if n_idle > 0:
            self._reporter.note(f"{n_idle} passages have nothing to learn within --seq-len and are left out")

    def ask_teacher(self) -> None:
        """Compute the teacher's distributions, as far as they are not there."""
        source, share = self._teacher.source, (self._world.rank, self._world.size)
        n_passes = self._store.n_passes(source.config.dim, *share)
        if n_passes:
            n_weights = parameters(source.config) // source.config.n_layers
            total = n_passes * n_weights * source.config.n_layers
            advance = self._reporter.stage(f"asking the teacher, {self._teacher.requested}", total)
            self._store.compute(source.graph(), lambda n: advance(n * n_weights, ""), *share)
        self._world.wait()

    def train(self) -> tuple[Losses, Losses, list[dict[str, Any]]]:
        """Losses on the held-out passages before and after, and the log of every step."""
        course, held_out = self._course, _Behind(self._store, len(self._used))
        model = self._student.source.graph()
        student = Student(model, self._grids(), keeps_activations=course.keeps_activations)
        training = Training(self._world.shard(student), self._used, self._store, course.settings, self._world)
        self._training = training
        state = self.unfinished.load(self._key)
        if state is None:
            self._reporter.stage("measuring the student")
            before, log = training.measure(self._held_out, held_out), list[dict[str, Any]]()
        else:
            training.load(state)
            before, log = Losses(**state["before"]), state["log"]
            self._reporter.note(f"going on behind step {training.step_number}")
        self._steps(training, before, log)
        self._reporter.stage("measuring the student")
        return before, training.measure(self._held_out, held_out), log

    def _steps(self, training: Training, before: Losses, log: list[dict[str, Any]]) -> None:
        settings = self._course.settings
        advance = self._reporter.steps("distilling", settings.steps, training.step_number)
        while training.step_number < settings.steps:
            begin = time.perf_counter()
            done = training.step()
            seconds = time.perf_counter() - begin
            log.append({"step": training.step_number, **dataclasses.asdict(done)})
            advance(1, f"{_described(done.losses)}, {done.n_tokens / seconds:.0f} tokens/s")
            if training.step_number % self._course.save_every == 0 and training.step_number < settings.steps:
                self._save(training, before, log)

    def _save(self, training: Training, before: Losses, log: list[dict[str, Any]]) -> None:
        state = training.state()
        if self._world.is_first:
            self.unfinished.save(self._key, {**state, "before": dataclasses.asdict(before), "log": log})
        self._world.wait()

    def _grids(self) -> Grids:
        if self._course.rounds_for is None:
            return {}
        target, row = self._course.rounds_for
        return grids(self._student.source.graph(), targets.get(target).quant(row))

    @property
    def _key(self) -> str:
        """Names everything that decides the bits of a state."""
        course = self._course
        decisive = [
            self._student.digest(self.hashes), self._store.key, len(self._used), dataclasses.asdict(course.settings),
            course.rounds_for,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """Canonical name -> trained weight; empty in every process but the first."""
        assert self._training is not None
        return weights_of(self._training.state()["model"])


def _save(
    out: Path, source: Source, info: ModelInfo, weights: Mapping[str, npt.NDArray[Any]], memory: Mapping[str, Any],
    files: Mapping[str, bytes], reporter: Reporter,
) -> None:  # fmt: skip
    model = put_weights(source.graph(), weights)
    advance = reporter.stage(f"writing {out}", folder.weight_bytes(model))
    folder.save(out, model, source.tokenizer, info, memory, advance, files)


def unpruned(source: Mapping[str, Any]) -> dict[str, Any]:
    """What ``prune.json`` would say of a model that was not pruned."""
    return {
        "source": source, "recipe": "", "quants": {}, "rounds_for": "", "importance": "", "dropped_blocks": [],
        "calibration": None, "report": [],
    }  # fmt: skip


def _step(config: ModelConfig, course: Course, after: Losses) -> dict[str, Any]:
    rounded = "" if course.rounds_for is None else f", rounded for {' '.join(course.rounds_for)}"
    return {
        "step": f"distillation: {course.settings.steps} steps{rounded}",
        "parameters": parameters(config),
        # Of an answer among a few tokens it would be no perplexity of a text.
        "perplexity": math.exp(after.cross_entropy) if config.kept_tokens is None else None,
    }


def _described(losses: Losses) -> str:
    kl = "" if losses.kl is None else f"KL {losses.kl:.3f}, "
    return f"{kl}cross-entropy {losses.cross_entropy:.3f}"


def _hashes(files: Sequence[Path], reporter: Reporter) -> dict[Path, str]:
    reporter.stage("hashing the models")
    hashes = FileHashes(list(dict.fromkeys(files)))
    try:
        return hashes.result()
    finally:
        hashes.close()


def _require_divisible(settings: Settings, world: World) -> None:
    if settings.batch % world.size:
        raise OutputError(
            "a step's lessons cannot be shared out evenly",
            expected=f"a --batch that {world.size} processes divide",
            found=settings.batch,
        )


@contextmanager
def _going_on(out: Path) -> Iterator[None]:
    """An interruption says what is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = Unfinished(out).folder
        if kept.exists():
            interrupt.add_note(f"what is done is kept in {kept}; the same command goes on from there")
        raise
