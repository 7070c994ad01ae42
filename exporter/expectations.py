"""What each check of the parity proof expects, in words: for those who read a verdict without the code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exporter import parity, targets
from exporter.errors import TargetError
from exporter.targets.base import Quant


def _logits(quant: Quant) -> str:
    largest = "" if quant.max_abs is None else f", no logit off by more than {quant.max_abs:g} standard deviations"
    return f"a mean KL of at most {quant.max_kl:g} nats to the reference on the same weights{largest}"


_EXPECTED: Mapping[str, str | Callable[[Quant], str]] = {
    "metadata": "every hyperparameter as the graph has it",
    "weights": "every decoded weight equal bit for bit to the plan's",
    "rounding": lambda quant: f"no row of a weight off by more than {quant.max_rounding:g} of its length",
    "vocabulary": "pieces, merges, special tokens and chat template of the source",
    "tokenizer": "the source's tokens for every text, and a stop at every stop token",
    "same function": f"the source's logits, to {parity.REWRITTEN:g} standard deviations",
    "range": "activations inside the range of the type that the artifact computes in",
    "logits": _logits,
    "pruned tokens": "no token without a row in the head is ever the likeliest",
    "loads": "a file that reader and runtime load",
    "capture": "logits of the reference from the graph that was lowered, in torch",
    "delegates": "a program for its backend, and no operator that runtimes lack",
    "methods": "every constant method as the runner needs it",
}


def expected(check: str, target: str, quant: str) -> str:
    """What a check expects of an artifact; empty for a check or a row that this version does not have."""
    found = _EXPECTED.get(check, "")
    if isinstance(found, str):
        return found
    try:
        return found(targets.get(target).quant(quant))
    except TargetError:
        return ""
