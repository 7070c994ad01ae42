"""Is the artifact what it claims to be? Two numbers, never one, and a verdict.

*Faithfulness*: the artifact in its real runtime against the torch reference on the same decoded weights. It
finds a wrong layout, rotary base, epsilon, mask or tokenizer. *Quality*: the same logits against the
unquantized reference. It says what the bits cost. The gates and the measurements behind them:
``docs/parity.md``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from exporter.config import ModelConfig
from exporter.divergence import UNKNOWN, Divergence, Logits, Positions, by_position
from exporter.errors import ExporterError, TargetError
from exporter.ir.build import build, config_of
from exporter.names import HEAD
from exporter.rope import inv_freq
from exporter.targets.base import Quant, ReadBack, Runtime
from exporter.tensors import RowTensor, select_rows
from exporter.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

N_TOKENS = 160
"""Positions compared; enough for the low rotary frequencies to matter and cheap even for a 70B."""
N_DECODED = 16
"""Of these, the last ones enter one by one through the KV cache."""
WEIGHT_BUDGET = 1 << 27
"""Weights compared bit for bit; larger models are sampled evenly, first and last rows of each tensor included."""

SCALE_ROUNDING = 2.0**-8
"""What may be rounded away of a row that the source itself has quantized: its integers stay, and a scale moves by half
a unit in the last place of bfloat16 at most."""


REWRITTEN = 1e-4
"""What equalisation and rotation may change of a logit, in standard deviations: the order of float32 sums, no more."""


@dataclass(frozen=True)
class Reference:
    """What the unquantized model computes on the probe's tokens.

    Attributes:
        logits: float32 ``[n_tokens, vocab_size]``.
        peaks: Node -> largest magnitude of its output, of every node but those of the residual stream, which every
            target keeps in float32.
        residual_terms: The nodes whose output the residual stream takes up.
        kept_tokens: The tokens whose logits are finite, ascending; ``None``: all of them.
    """

    logits: Logits
    peaks: Mapping[str, float]
    residual_terms: frozenset[str]
    kept_tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Check:
    """One yes-or-no question and, where the answer is no, what was seen."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class WeightError:
    """How far one decoded weight is from the source's, over the rows that were compared.

    Attributes:
        norm: Euclidean length of the source's rows, all together.
        error: Length of the difference.
        largest: Largest error of a row, as a share of that row's length.
        row: Its number.
    """

    norm: float
    error: float
    largest: float
    row: int


@dataclass(frozen=True)
class Measured:
    """What the checks saw on their way to a verdict, for reports.

    Attributes:
        weights: Canonical name -> error of the decoded weight.
        faithfulness: Positions of the probe's text, against the reference on the artifact's weights.
        quality: The same against the unquantized reference.
    """

    weights: Mapping[str, WeightError]
    faithfulness: Positions
    quality: Positions


@dataclass(frozen=True)
class Parity:
    """Everything that was found out about one artifact."""

    checks: tuple[Check, ...]
    faithfulness: Divergence
    quality: Divergence
    not_run: str = ""
    """Why its numbers were not compared, if they were not."""
    measured: Measured | None = None
    """``None`` where the comparison did not come to its end."""

    @property
    def verdict(self) -> str:
        if self.failures:
            return "fail"
        return "not run" if self.not_run else "pass"

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]


def probe_tokens(tokenizer: Tokenizer, config: ModelConfig) -> list[int]:
    """The token ids every comparison runs on: the beginning of the text that ships with the package."""
    text = resources.files("exporter").joinpath("data/parity.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_bos=True)
    return ids[: min(N_TOKENS, config.max_seq_len)]


def reference(model: ir.Model, token_ids: Sequence[int]) -> Reference:
    """Run the reference, and watch how far its activations reach."""
    from exporter.ir import interpreter

    peaks: dict[str, float] = {}

    def observe(node: ir.Node, output: torch.Tensor) -> None:
        if node.op_type not in ("Embedding", "Residual", "ScatterLogits"):
            peaks[str(node.name)] = float(output.abs().max())

    scores = interpreter.logits(model, list(token_ids), observe)
    residuals = [node for node in model.graph if node.op_type == "Residual"]
    terms = {v.producer() for node in residuals for v in node.inputs if v is not None}
    names = frozenset(str(node.name) for node in terms if node is not None) & peaks.keys()
    return Reference(scores, peaks, names, config_of(model).kept_tokens)


def check_config(expected: ModelConfig, found: ModelConfig) -> Check:
    """The artifact's metadata describes the graph's function."""
    wrong = [
        f"{name}: expected {want}, found {got}"
        for name, want in expected.to_dict().items()
        if name != "rope_scaling" and not _same(want, got := getattr(found, name))
    ]
    if not wrong and not np.allclose(inv_freq(expected), inv_freq(found), rtol=1e-6, atol=0):
        wrong.append(f"rope_scaling: expected {expected.rope_scaling}, found {found.rope_scaling}")
    return Check("metadata", not wrong, "; ".join(wrong) or f"{len(expected.to_dict())} fields equal")


def _same(want: object, got: object) -> bool:
    if isinstance(want, float) and isinstance(got, float):
        return bool(np.float32(want) == np.float32(got))  # formats store float32
    return want == got


def _sample(tensor: RowTensor, share: float) -> list[tuple[int, int]]:
    """Row ranges of a tensor: all of it, or evenly spaced pieces with both ends."""
    ranges = list(tensor.row_ranges())
    n = max(2, round(len(ranges) * share))
    if n >= len(ranges):
        return ranges
    return [ranges[i] for i in np.linspace(0, len(ranges) - 1, n).round().astype(int)]


def check_weights(expected: Mapping[str, RowTensor], found: Mapping[str, RowTensor]) -> Check:
    """Decoded weights equal bit for bit what the graph says they are."""
    if missing := sorted(set(expected) ^ set(found)):
        return Check("weights", False, f"tensors on one side only: {', '.join(missing[:6])}")
    total = sum(int(np.prod(t.dims)) for t in expected.values())
    compared = 0
    for name, want in expected.items():
        got = found[name]
        if got.dims != want.dims:
            return Check("weights", False, f"{name}: expected shape {want.dims}, found {got.dims}")
        for start, stop in _sample(want, WEIGHT_BUDGET / total):
            a, b = want.rows_f32(start, stop), got.rows_f32(start, stop)
            # Compared as bits: +0 and -0 differ, equal NaNs do not.
            different = a.view(np.uint32) != b.view(np.uint32)
            if different.any():
                at = tuple(int(i) for i in np.argwhere(different)[0])
                row = (start + at[0], *at[1:])
                count = int(different.sum())
                return Check(
                    "weights", False, f"{name}{list(row)}: expected {a[at]!r}, found {b[at]!r} ({count} differ)"
                )
            compared += a.size
    return Check("weights", True, f"{compared} of {total} weights compared, all equal bit for bit")


def weight_errors(source: Mapping[str, RowTensor], found: Mapping[str, RowTensor]) -> dict[str, WeightError]:
    """How far each decoded weight is from the source's; a weight that is missing or has another shape has no entry.

    A target that permutes rows or swaps layers on the way does so too when it says what it expects to find. This
    comparison knows nothing of the target. A row's error is a share of its length, of the mean length for rows that are
    shorter (the rows of unused tokens are nearly zero, and a float16 scale cannot hold less).
    """
    total = sum(int(np.prod(t.dims)) for t in source.values())
    errors = {}
    for name, want in source.items():
        if name not in found or found[name].dims != want.dims:
            continue
        norm = error = 0.0
        largest, at = -1.0, 0
        for start, stop in _sample(want, WEIGHT_BUDGET / total):
            a, b = want.rows_f32(start, stop), found[name].rows_f32(start, stop)
            a, b = (x.reshape(len(x) if len(want.dims) > 1 else 1, -1) for x in (a, b))
            lengths, distances = np.linalg.norm(a, axis=1), np.linalg.norm(a - b, axis=1)
            norm += float(np.square(lengths, dtype=np.float64).sum())
            error += float(np.square(distances, dtype=np.float64).sum())
            floor = max(float(lengths.mean()), float(np.finfo(np.float32).tiny))
            shares = distances / np.maximum(lengths, floor)
            shares[np.isnan(shares)] = np.inf  # else the next comparison would forget it
            row = int(shares.argmax())
            if shares[row] > largest:
                largest, at = float(shares[row]), start + row
        errors[name] = WeightError(norm**0.5, error**0.5, largest, at)
    return errors


def check_rounding(source: Mapping[str, RowTensor], errors: Mapping[str, WeightError], quant: Quant) -> Check:
    """Decoded weights are the source's, up to what the format rounds away of each row.

    Rows that the source has quantized itself may lose :data:`SCALE_ROUNDING` of their length, whatever the format.
    """
    worst = (-quant.max_rounding, 0.0, "none")
    for name, want in source.items():
        if name not in errors:
            return Check("rounding", False, f"{name} is missing or has another shape")
        allowed = quant.max_rounding if want.quantized is None else min(quant.max_rounding, SCALE_ROUNDING)
        found = errors[name]
        if found.largest - allowed > worst[0]:
            where = f"{name}, row {found.row}" if len(want.dims) > 1 else name
            worst = (found.largest - allowed, found.largest, where)
    excess, error, where = worst
    return Check("rounding", excess <= 0, f"largest error of a row {error:.2g} ({where})")


def check_rewritten(reference: Reference, rewritten: Reference) -> Check:
    """Equalised and rotated weights compute the logits of the source, to a few roundings of float32."""
    std = float(reference.logits.std()) or 1.0
    difference = float(np.abs(reference.logits - rewritten.logits).max()) / std
    # Written so that NaN fails.
    passed = difference <= REWRITTEN
    return Check("same function", passed, f"largest difference {difference:.2g} of the logits' std")


def check_vocabulary(expected: Tokenizer, found: Tokenizer) -> Check:
    """The artifact stores the source's tokenizer: pieces, types, merges, special ids, chat template."""
    names = [field.name for field in dataclasses.fields(expected)]
    wrong = [name for name in names if getattr(expected, name) != getattr(found, name)]
    shown = [f"{name}: expected {getattr(expected, name)!r:.80}, found {getattr(found, name)!r:.80}" for name in wrong]
    return Check("vocabulary", not wrong, "; ".join(shown) or f"{len(names)} fields equal")


def check_tokenizer(tokenizer: Tokenizer, runtime: Runtime, texts: Sequence[str]) -> Check:
    """The runtime cuts hostile texts into the same tokens, knows the special ones by name, and stops where it must."""
    specials = "".join(tokenizer.special_tokens)
    asked = [*texts, specials]
    found = [*runtime.tokenize(texts), *runtime.tokenize([specials], add_special=True, parse_special=True)]
    wanted = [tokenizer.encode(text) for text in texts]
    wanted.append(tokenizer.encode(specials, parse_special=True, add_bos=tokenizer.add_bos))
    wrong = [
        f"{text!r:.200}: expected {want!s:.200}, found {got!s:.200}"
        for text, want, got in zip(asked, wanted, found, strict=True)
        if want != got
    ]
    if wrong:
        return Check("tokenizer", False, f"{len(wrong)} of {len(asked)} texts differ, first {wrong[0]}")
    if missing := set(tokenizer.stop_ids) - set(runtime.eog_ids()):
        return Check("tokenizer", False, f"the runtime does not stop at {sorted(map(tokenizer.piece, missing))}")
    n_stops = len(tokenizer.stop_ids)
    return Check("tokenizer", True, f"{len(asked)} texts equal, stops at all {n_stops} stop tokens")


def check_logits(faithfulness: Divergence, quant: Quant) -> Check:
    """The faithfulness numbers are within the capability row's gates."""
    gates = [("mean_kl", quant.max_kl), ("relative_max_abs", quant.max_abs)]
    # Written so that NaN fails.
    wrong = [
        f"{name} {value:.3g} is above {gate:g}"
        for name, gate in gates
        if gate is not None and not (value := getattr(faithfulness, name)) <= gate
    ]
    return Check("logits", not wrong, "; ".join(wrong) or f"mean KL {faithfulness.mean_kl:.2g} <= {quant.max_kl:g}")


def check_range(reference: Reference, quant: Quant) -> Check:
    """The unquantized activations fit into the type that the artifact computes in, as the artifact scales them."""
    scaled = {
        name: peak / (quant.residual_headroom if name in reference.residual_terms else 1)
        for name, peak in reference.peaks.items()
    }
    worst = max(scaled, key=lambda name: scaled[name])
    detail = f"largest activation {reference.peaks[worst]:.4g} ({worst}), computed as {scaled[worst]:.4g}"
    limit = np.inf if quant.max_activation is None else quant.max_activation
    # Written so that NaN fails.
    fits = scaled[worst] <= limit
    return Check("range", fits, f"{detail} {'<=' if fits else 'is not <='} {limit:g}")


def check_pruned_tokens(candidate: Logits, kept_tokens: Sequence[int]) -> Check:
    """No token without a row in the head is ever the most likely one; in most runtimes its logit is minus infinity."""
    kept = np.zeros(candidate.shape[1], bool)
    kept[list(kept_tokens)] = True
    margins = candidate[:, kept].max(axis=1) - candidate[:, ~kept].max(axis=1, initial=-np.inf)
    # Written so that NaN fails.
    lost = int((~(margins > 0)).sum())
    detail = f"least margin {margins.min():.3g}" if not lost else f"a pruned token wins at {lost} of {len(margins)}"
    return Check("pruned tokens", not lost, detail)


def on_kept(weights: Mapping[str, RowTensor], kept_tokens: Sequence[int] | None) -> dict[str, RowTensor]:
    """An artifact's weights with the head's rows of the kept tokens only, where it has one for every token."""
    found = dict(weights)
    head = found.get(HEAD)
    if kept_tokens is not None and head is not None and head.n_rows > max(len(kept_tokens), kept_tokens[-1]):
        found[HEAD] = select_rows(head, np.array(kept_tokens, np.intp))
    return found


def on_weights(model: ir.Model, weights: Mapping[str, RowTensor]) -> ir.Model:
    """The graph's function with an artifact's decoded weights: wiring from the source, numbers from the artifact."""
    return build(config_of(model), dict(weights), name=str(model.graph.name))


def refused(error: ExporterError, checks: Sequence[Check] = ()) -> Parity:
    """The parity of an artifact that a reader or its runtime does not even load: a verdict, not an accident."""
    detail = ", ".join(filter(None, (error.message, error.found)))
    return Parity((*checks, Check("loads", False, detail)), UNKNOWN, UNKNOWN)


def inspected(reason: str, checks: Sequence[Check]) -> Parity:
    """The parity of an artifact whose runtime is not here: what was checked all the same, and why no more was."""
    return Parity(tuple(checks), UNKNOWN, UNKNOWN, reason)


def to_json(parity: Parity) -> dict[str, Any]:
    """The manifest's ``parity`` entry; every number finite or null, as JSON wants."""

    def numbers(divergence: Divergence) -> dict[str, float | None]:
        return {k: v if np.isfinite(v) else None for k, v in vars(divergence).items()}

    return {
        "faithfulness": numbers(parity.faithfulness),
        "quality": numbers(parity.quality),
        "checks": [vars(check) for check in parity.checks],
        "verdict": parity.verdict,
        **({"reason": parity.not_run} if parity.not_run else {}),
    }


def verify(
    *,
    source: Mapping[str, RowTensor],
    model: ir.Model,
    expected: Mapping[str, RowTensor],
    quant: Quant,
    tokenizer: Tokenizer,
    artifact: ReadBack,
    runtime: Runtime,
    reference: Reference,
    token_ids: Sequence[int],
    texts: Sequence[str],
    rewritten: Reference | None = None,
) -> Parity:
    """Check one artifact.

    Args:
        source: Canonical name -> weight before any quantization, equalised and rotated as the artifact's.
        model: The graph the artifact was made from.
        expected: Canonical name -> decoded weight the artifact must hold.
        quant: Capability row with the gates.
        tokenizer: The model's tokenizer.
        artifact: The artifact, read back.
        runtime: The artifact, loaded in its runtime.
        reference: The unquantized reference on ``token_ids``.
        token_ids: Tokens to run, from :func:`probe_tokens`.
        texts: Hostile texts for the tokenizer check.
        rewritten: What the equalised or rotated graph computes unquantized, if the artifact was made of one.

    Returns:
        All checks with their details; the verdict is ``fail`` if one did not pass.
    """
    from exporter.ir import interpreter

    kept = reference.kept_tokens
    errors = weight_errors(source, on_kept(artifact.weights, kept))
    checks = [
        check_config(config_of(model), artifact.config),
        check_weights(expected, artifact.weights),
        check_rounding(source, errors, quant),
        check_vocabulary(tokenizer, artifact.tokenizer),
    ]
    if rewritten is not None:
        checks.append(check_rewritten(reference, rewritten))
    if quant.max_activation is not None:
        checks.append(check_range(rewritten or reference, quant))
    try:
        checks.append(check_tokenizer(tokenizer, runtime, texts))
        candidate = runtime.logits(token_ids, prefill=max(1, len(token_ids) - N_DECODED))
    except TargetError as error:
        return refused(error, checks)
    # Weights that do not fit the graph compute nothing; their check has failed already.
    fits = {name: t.dims for name, t in artifact.weights.items()} == {name: t.dims for name, t in expected.items()}
    fits = fits and source.keys() <= artifact.weights.keys()
    same_weights = (
        interpreter.logits(on_weights(model, artifact.weights), list(token_ids)) if fits else reference.logits
    )
    faithful = by_position(same_weights, candidate, token_ids, kept)
    good = by_position(reference.logits, candidate, token_ids, kept)
    checks.append(check_logits(faithful.summary(), quant))
    if kept is not None:
        checks.append(check_pruned_tokens(candidate, kept))
    return Parity(tuple(checks), faithful.summary(), good.summary(), measured=Measured(errors, faithful, good))
