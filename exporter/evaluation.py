"""``exporter eval``: how well artifacts predict a text, each in its own runtime, next to the model they came from.

The text is cut into windows of equal length, each of them a context of its own, as llama.cpp's ``perplexity`` tool
does. The confidence intervals come from resampling whole windows, because neighbouring positions are not independent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter import manifest, targets
from exporter.artifact import MANIFEST
from exporter.errors import CheckpointError, OutputError
from exporter.source import Source
from exporter.targets.base import Runtime

Logits = npt.NDArray[np.float32]

RESAMPLINGS = 2000
"""Bootstrap samples behind an interval; its ends then move by less than a tenth of its width."""
SPEED_TOKENS = 24
"""Tokens whose decoding is timed."""


@dataclass(frozen=True)
class Interval:
    """A mean over positions with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """One artifact to judge.

    Attributes:
        name: What tables and plots call it.
        target: Name of the target whose runtime loads it.
        files: Its files, the one to load first.
        nbytes: Their size.
    """

    name: str
    target: str
    files: tuple[Path, ...]
    nbytes: int


@dataclass(frozen=True)
class Evaluation:
    """What was found out about a candidate; KL and perplexity in nats, against the reference.

    Attributes:
        candidate: What was judged.
        perplexity: Of the text.
        perplexity_ratio: The same divided by the reference's.
        kl: KL(reference || candidate) by position.
        kl_p99: Its 99th percentile.
        top1: Share of positions where both rank the same token first.
        tokens_per_second: Speed of decoding one token after another on this machine.
    """

    candidate: Candidate
    perplexity: float
    perplexity_ratio: Interval
    kl: Interval
    kl_p99: float
    top1: Interval
    tokens_per_second: float


@dataclass(frozen=True)
class Scores:
    """One window, position by position: float64 ``[n]``, the last without a next token.

    Attributes:
        nll: Negative log likelihood of the next token, ``[n - 1]``.
        kl: KL(reference || this).
        same: Whether both rank the same token first.
    """

    nll: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    same: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Yardstick:
    """The windows, and what the unquantized reference says about them.

    Attributes:
        windows: Token ids, all of one length.
        logits: Of the reference, float32 ``[n_tokens, vocab_size]`` each, mapped from files.
    """

    windows: Sequence[list[int]]
    logits: Sequence[Logits]

    @property
    def perplexity(self) -> float:
        """The reference's own."""
        own = [score(logits, logits, ids).nll for ids, logits in zip(self.windows, self.logits, strict=True)]
        return math.exp(float(np.concatenate(own).mean()))


def cut(source: Source, text: str, n_windows: int, n_tokens: int) -> list[list[int]]:
    """Windows of ``n_tokens`` ids from evenly spaced places of a text, behind the start token if the model has one.

    Raises:
        CheckpointError: If the text is too short for the windows, or the model's context for their length.
    """
    if n_tokens > source.config.max_seq_len:
        raise CheckpointError(
            "the windows are longer than the model's context",
            expected=f"at most {source.config.max_seq_len} tokens",
            found=n_tokens,
            hint="pass a smaller --window",
        )
    tokenizer = source.tokenizer
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    ids = tokenizer.encode(text)
    length = n_tokens - len(start)
    if len(ids) < n_windows * length:
        raise CheckpointError(
            "the text is too short",
            expected=f"{n_windows} windows of {length} tokens, {n_windows * length} in all",
            found=f"{len(ids)} tokens",
            hint="pass a longer text, fewer --windows or a shorter --window",
        )
    step = (len(ids) - length) // max(1, n_windows - 1)
    return [start + ids[i * step : i * step + length] for i in range(n_windows)]


def yardstick(
    source: Source, windows: Sequence[list[int]], scratch: Path, progress: Callable[[int], None]
) -> Yardstick:
    """Run the reference; ``progress`` hears of every window.

    The logits of a vocabulary of 128,256 take 263 MB a window of 512 tokens: they lie in files below ``scratch``.
    """
    from exporter.ir import interpreter

    model, logits = source.graph(), []
    for index, ids in enumerate(windows):
        path = scratch / f"{index}.npy"
        np.save(path, interpreter.logits(model, ids))
        logits.append(np.load(path, mmap_mode="r"))
        progress(1)
    return Yardstick(windows, logits)


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def score(reference: Logits, candidate: Logits, token_ids: Sequence[int]) -> Scores:
    """Compare the logits of one window in float64, some positions at a time."""
    kl, nll = [], []
    for start in range(0, len(reference), 64):
        p, q = (_log_softmax(x[start : start + 64]) for x in (reference, candidate))
        kl.append((np.exp(p) * (p - q)).sum(axis=-1))
        following = np.array(token_ids[start + 1 : start + 1 + len(q)], np.int64)
        nll.append(-q[np.arange(len(following)), following])
    same = reference.argmax(axis=-1) == candidate.argmax(axis=-1)
    return Scores(np.concatenate(nll), np.concatenate(kl), same)


def interval(windows: Sequence[npt.NDArray[Any]], seed: int = 0) -> Interval:
    """Mean over all positions, and its 95 % interval by resampling windows of equal length."""
    means = np.array([float(np.mean(window)) for window in windows])
    drawn = np.random.default_rng(seed).integers(0, len(means), (RESAMPLINGS, len(means)))
    # A mean of equal numbers may come out a rounding beside them.
    resampled = means[drawn].mean(axis=1).clip(means.min(), means.max())
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(means.mean()), float(low), float(high))


def candidates(paths: Sequence[Path]) -> list[Candidate]:
    """What the ARTIFACT arguments name: the good artifacts of an export folder, or single files of any maker.

    Raises:
        OutputError: If a path is neither.
    """
    return [candidate for path in paths for candidate in _candidates(path)]


def _candidates(path: Path) -> Iterator[Candidate]:
    if path.is_dir():
        document = manifest.load(path)
        for artifact in document["artifacts"]:
            if artifact["parity"]["verdict"] != "fail":
                files = tuple(path / file["path"] for file in artifact["files"])
                nbytes = sum(file["bytes"] for file in artifact["files"])
                yield Candidate(f"{artifact['target']} {artifact['quant']}", artifact["target"], files, nbytes)
        return
    by_suffix = {targets.get(name).suffix: name for name in targets.REGISTRY}
    if path.suffix not in by_suffix or not path.is_file():
        raise OutputError(
            f"{path} is not an artifact",
            expected=f"a folder with {MANIFEST}, or a file that ends in {', '.join(by_suffix)}",
            found="another kind of file" if path.exists() else "nothing there",
        )
    yield Candidate(path.stem, by_suffix[path.suffix], (path,), path.stat().st_size)


def evaluate(candidate: Candidate, yard: Yardstick, progress: Callable[[int], None]) -> Evaluation:
    """Judge one artifact in its runtime; ``progress`` hears of every window.

    Raises:
        RuntimeUnavailableError: If the runtime is not installed.
        TargetError: If the runtime refuses the artifact, or it is another model's.
    """
    target = targets.get(candidate.target)
    target.require_runtime()
    runtime = target.load(candidate.files)
    found, own = [], []
    for ids, reference in zip(yard.windows, yard.logits, strict=True):
        logits = runtime.logits(ids)
        if logits.shape != reference.shape:
            raise CheckpointError(
                f"{candidate.name} is not an artifact of the reference model",
                expected=f"{reference.shape[1]} logits at {reference.shape[0]} positions",
                found=" x ".join(map(str, logits.shape)),
                hint="pass the model that it was exported from with --reference",
            )
        found.append(score(reference, logits, ids))
        own.append(score(reference, reference, ids))
        progress(1)
    loss = interval([f.nll - o.nll for f, o in zip(found, own, strict=True)])
    kl = [f.kl for f in found]
    return Evaluation(
        candidate,
        perplexity=math.exp(float(np.concatenate([f.nll for f in found]).mean())),
        perplexity_ratio=Interval(*(math.exp(x) for x in (loss.mean, loss.low, loss.high))),
        kl=interval(kl),
        kl_p99=float(np.quantile(np.concatenate(kl), 0.99)),
        top1=interval([f.same for f in found]),
        tokens_per_second=_speed(runtime, yard.windows[0]),
    )


def _speed(runtime: Runtime, ids: Sequence[int]) -> float:
    """Decoding speed: the time of more tokens minus the time of fewer, so that loading and the prompt drop out."""
    n = min(SPEED_TOKENS, len(ids) // 2)

    def seconds(n_tokens: int) -> float:
        begin = time.perf_counter()
        runtime.logits(ids[:n_tokens], prefill=4)
        return time.perf_counter() - begin

    short, long = (min(seconds(n_tokens) for _ in range(2)) for n_tokens in (4, 4 + n))
    return n / max(long - short, 1e-9)
