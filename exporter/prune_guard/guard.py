"""``classify``: a verdict from one forward pass, in whatever runtime the guard was exported for.

Nothing is sampled. The prompt enters together with the words ``unsafe``, a new line and ``S``: the logits where the
verdict belongs give the probability of ``unsafe``, those behind ``S`` the probabilities of the hazards, were it unsafe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from exporter import evaluation, targets
from exporter.guard import PROMPTED
from exporter.prune_guard.guard_data import SAFE, UNSAFE
from exporter.prune_guard.kept_tokens import end_of_answer
from exporter.prune_guard.prompt import LLAMA3_ANSWER_PREFIX, GuardError, Messages, prompt_tokens
from exporter.tokenizer import Tokenizer

THRESHOLD = 0.5
"""Probability of ``unsafe`` from which the verdict is unsafe."""
NAMED = 0.2
"""Probability from which a hazard is named, if the verdict is unsafe; the most probable one always is."""

Logits = npt.NDArray[np.float32]


class Scorer(Protocol):
    """What a guard needs of a runtime (:class:`exporter.targets.base.Runtime` has it)."""

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """Logits at every position, ``[n_tokens, vocab_size]``."""


@dataclass(frozen=True)
class Verdict:
    """What a guard thinks of the last message of a conversation.

    Attributes:
        verdict: ``"safe"`` or ``"unsafe"``.
        categories: Codes of the hazards, most probable first; empty if it is safe.
        p_unsafe: Probability of ``unsafe`` among all that the guard may say there.
        p_categories: Code -> probability that the guard names it first, were the message unsafe.
    """

    verdict: str
    categories: tuple[str, ...]
    p_unsafe: float
    p_categories: Mapping[str, float]


class Guard:
    """An exported guard.

    Args:
        runtime: The artifact, loaded.
        tokenizer: Its tokenizer.

    Raises:
        GuardError: The tokenizer gives both verdicts the same beginning, or the codes of the hazards no order.
    """

    def __init__(self, runtime: Scorer, tokenizer: Tokenizer) -> None:
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._verdicts = [tokenizer.encode(word)[0] for word in (SAFE, UNSAFE)]
        if self._verdicts[0] == self._verdicts[1]:
            raise GuardError(
                "the tokenizer begins both verdicts alike",
                expected="different first tokens of 'safe' and 'unsafe'",
                found=tokenizer.decode(self._verdicts[:1]),
            )
        self._forced, self._codes = _forced_answer(tokenizer)
        self._sayable = np.array(sayable_tokens(tokenizer))

    def classify(self, messages: Messages, threshold: float = THRESHOLD) -> Verdict:
        """Judge the last message of a conversation.

        Args:
            messages: ``{"role": "user" | "assistant", "content": text}``, taking turns.
            threshold: Probability from which the verdict is unsafe.

        Raises:
            GuardError: The conversation cannot be judged.
            TargetError: The runtime fails.
        """
        prompt = prompt_tokens(messages, self._tokenizer)
        logits = self._runtime.logits([*prompt, *self._forced])
        p_unsafe = self._probabilities(logits[len(prompt) - 1])[self._verdicts[1]]
        p_categories = self._category_probabilities(logits[len(prompt) - 1 :])
        if p_unsafe < threshold:
            return Verdict(SAFE, (), p_unsafe, p_categories)
        ranked = sorted(PROMPTED, key=lambda code: -p_categories[code])
        named = tuple(code for i, code in enumerate(ranked) if i == 0 or p_categories[code] >= NAMED)
        return Verdict(UNSAFE, named, p_unsafe, p_categories)

    def _probabilities(self, row: Logits) -> dict[int, float]:
        """Softmax over the tokens that an answer is made of."""
        scores = row[self._sayable].astype(np.float64)
        weights = np.exp(scores - scores.max())
        return dict(zip(self._sayable.tolist(), (weights / weights.sum()).tolist(), strict=True))

    def _category_probabilities(self, rows: Logits) -> dict[str, float]:
        """``rows[i]`` are the logits before token ``i`` of the forced answer."""
        found = {}
        for code, tokens in self._codes.items():
            p, start = 1.0, len(self._forced) - _depth(self._codes)
            for depth, token in enumerate(tokens):
                p *= self._probabilities(rows[start + depth])[token]
            longer = {other[len(tokens)] for other in self._codes.values() if _continues(other, tokens)}
            if longer:
                after = self._probabilities(rows[start + len(tokens)])
                p *= 1 - sum(after[token] for token in longer)
            found[code] = p
        return found


def open_guards(artifact: Path) -> dict[str, Guard]:
    """The guards of an export folder, or the one in a single file, by name, such as ``"gguf int4"``.

    Raises:
        OutputError: If it is neither.
        RuntimeUnavailableError: If a runtime is not installed.
        TargetError: If a runtime refuses an artifact.
    """
    found = {}
    for candidate in evaluation.candidates([artifact]):
        target = targets.get(candidate.target)
        target.require_runtime()
        found[candidate.name] = Guard(target.load(candidate.files), target.read_back(candidate.files).tokenizer)
    return found


def _continues(longer: tuple[int, ...], tokens: tuple[int, ...]) -> bool:
    return len(longer) > len(tokens) and longer[: len(tokens)] == tokens


def _depth(codes: Mapping[str, tuple[int, ...]]) -> int:
    """Tokens of a number that must be forced so that every code's probabilities are there."""
    return max(len(tokens) for tokens in codes.values()) - 1


def _forced_answer(tokenizer: Tokenizer) -> tuple[list[int], dict[str, tuple[int, ...]]]:
    """The tokens behind the prompt, and the number tokens of every code.

    Where ``10`` is one token, ``unsafe\\nS`` is enough. Where it is two, ``1`` is forced as well: with the logits
    before and behind it, ``S1`` and ``S10`` can be told apart.
    """
    start = tokenizer.encode(f"{UNSAFE}\nS")
    codes = {code: tuple(tokenizer.encode(f"{UNSAFE}\n{code}")) for code in PROMPTED}
    if any(list(tokens[: len(start)]) != start for tokens in codes.values()):
        raise GuardError("the tokenizer joins the S of a hazard with its number", expected="S, then the number")
    numbers = {code: tokens[len(start) :] for code, tokens in codes.items()}
    inner = {tokens[:i] for tokens in numbers.values() for i in range(1, len(tokens))}
    longest = max(inner, key=len, default=())
    if any(longest[: len(prefix)] != prefix for prefix in inner):
        raise GuardError(
            "the numbers of the hazards begin in too many ways for one forward pass",
            expected="one beginning that several share",
            found=", ".join(tokenizer.decode(list(prefix)) for prefix in sorted(inner)),
        )
    return [*start, *longest], numbers


def sayable_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens that an answer is made of, ascending: 20 in Llama 3's vocabulary."""
    codes = list(PROMPTED)
    answers = [SAFE, LLAMA3_ANSWER_PREFIX, f"{UNSAFE}\n{','.join(codes)}", *(f"{UNSAFE}\n{code}" for code in codes)]
    end = end_of_answer(tokenizer)
    return sorted({*(token for a in answers for token in tokenizer.encode(a)), *([] if end is None else [end])})
