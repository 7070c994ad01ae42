"""What every target offers the pipeline: a capability table, plans, a runtime, and a way to read back.

The pipeline, the parity check and the command line know only these shapes. A target is added by one entry in
:data:`exporter.targets.REGISTRY`; nothing else asks which target it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from exporter.errors import TargetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from exporter.checkpoint.base import ModelInfo
    from exporter.config import ModelConfig
    from exporter.parity import Check
    from exporter.quant.calibration.use import Calibrated
    from exporter.quant.schemes import Recipe, Scheme, WeightType
    from exporter.tensors import RowTensor
    from exporter.tokenizer import Tokenizer

EXPORT_THE_ORIGINAL = (
    "export the bf16 checkpoint that this one was made from; --target executorch --quant int4 takes this one as it is"
)
"""Hint of the targets that cannot hold what Meta adds to a Llama when it quantizes one."""

Progress = Callable[[int, str], None]
"""Called with the number of bytes just finished, and what they belong to: a tensor's name, or nothing."""


@dataclass(frozen=True)
class Quant:
    """One row of a target's capability table.

    Attributes:
        name: What ``--quant`` takes.
        summary: One line for ``exporter targets``.
        portable: Whether the name means the same on every target.
        max_kl: Faithfulness gate on the mean KL divergence (nats) to the reference on the same weights.
        max_rounding: Gate on ``|decoded row - source row| / |source row|``: what the format may round away.
        max_abs: Faithfulness gate on ``max |logits - reference| / std(reference)``; only full precision has one.
        max_activation: Gate on the largest magnitude that the source's activations reach outside the residual stream,
            for artifacts that compute in a type with a narrower range than float32.
        residual_headroom: How many times smaller such an artifact computes what the residual stream takes up.
        calibrated: Whether its integers are chosen with calibration data where there is some.
        recipe: What its weights follow in the graph; ``None`` where only the format has them.
        types: What its matrices can be stored as where each has a type of its own; empty if all are stored alike.
    """

    name: str
    summary: str
    portable: bool
    max_kl: float
    max_rounding: float
    max_abs: float | None = None
    max_activation: float | None = None
    residual_headroom: float = 1.0
    calibrated: bool = False
    recipe: Recipe | None = None
    types: Mapping[str, WeightType] = field(default_factory=dict, hash=False)

    def rounds_inputs(self, scheme: Scheme, *, head: bool) -> bool:
        """Whether the runtime rounds what a matrix of this scheme multiplies to 8 bits a token
        (:func:`exporter.quant.activations.dynamic_int8`)."""
        return False


@dataclass(frozen=True)
class Backend:
    """Hardware, or a library that drives it, that an artifact can be made for; a row of ``exporter targets``.

    Attributes:
        name: What ``--backend`` takes.
        devices: Where it runs.
        runs_here: Whether the target's runtime on this machine can run it, so that its numbers are compared.
        missing: What it would take to make artifacts for it; empty if they can be made.
        quants: Names of the capability rows that it has.
    """

    name: str
    devices: str
    runs_here: bool
    missing: str = ""
    quants: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedFile:
    """A file that an export will write.

    Attributes:
        path: Relative to the output folder.
        nbytes: Its size.
        exact: Whether the size is known; otherwise it is an estimate.
    """

    path: str
    nbytes: int
    exact: bool = True


@dataclass(frozen=True)
class StoredTensor:
    """One weight as a file holds it: its canonical name, encoding, shape, and bytes with scales."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written, with the SHA-256 of its bytes."""

    path: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        model: The graph; equalised if there is a calibration.
        tokenizer: Its tokenizer.
        info: Model card facts.
        tiktoken: The file of Meta's that the tokenizer was read from, if it was.
        context_asked: Whether the user asked for the graph's context length; otherwise it is the model's own.
        calibrated: What a calibration knows of the graph.
    """

    model: ir.Model
    tokenizer: Tokenizer
    info: ModelInfo
    tiktoken: Path | None = None
    context_asked: bool = False
    calibrated: Calibrated | None = None


@dataclass(frozen=True)
class Options:
    """Choices that only some targets understand.

    Attributes:
        split_max_bytes: Largest size of one file, for formats that can be split.
        jobs: Worker threads.
        split_weights: Whether weights get a file of their own, for formats whose programs can share one.
        browser: Whether an artifact that is meant for browsers must fit into one.
        group_size: Columns that share a scale in 4-bit layers, where the row's own number is not wanted.
        embedding: Encoding of the embedding table, ``bits,group``, where the row's own is not wanted.
        backend: What the artifact is made for, where the target's default is not wanted.
        types: Canonical name -> name of its type, of the matrices that are not stored as the row has them.
    """

    split_max_bytes: int | None = None
    split_weights: bool = False
    jobs: int = 1
    browser: bool = True
    group_size: int | None = None
    embedding: str | None = None
    backend: str | None = None
    types: Mapping[str, str] = field(default_factory=dict, hash=False)

    CHANGES_ROW: ClassVar[tuple[str, ...]] = ("group_size", "embedding", "backend")
    """Choices that make another artifact: a target that cannot follow them must not be asked in vain."""


@dataclass(frozen=True)
class ReadBack:
    """An artifact as another reader sees it.

    Attributes:
        config: Hyperparameters stored in the artifact.
        weights: Canonical name -> decoded weight.
        tokenizer: The vocabulary stored in the artifact.
    """

    config: ModelConfig
    weights: Mapping[str, RowTensor]
    tokenizer: Tokenizer


class Plan(Protocol):
    """One artifact, decided but not written."""

    @property
    def model(self) -> ir.Model:
        """The graph the artifact computes, after a portable recipe."""

    @property
    def files(self) -> Sequence[PlannedFile]: ...

    @property
    def weight_bytes(self) -> int:
        """Bytes that hold weights, without vocabulary and headers."""

    @property
    def tensors(self) -> Sequence[StoredTensor]:
        """The weights that the artifact will hold, a tied head not again."""

    @property
    def expected(self) -> Mapping[str, RowTensor]:
        """Canonical name -> the decoded weight that the artifact must hold, bit for bit."""

    @property
    def peak_bytes(self) -> int:
        """Predicted peak of anonymous memory while writing."""

    @property
    def requires(self) -> Mapping[str, Any]:
        """What a runtime must have to run it, as the manifest lists it; empty where every runtime of a format does."""

    @property
    def notes(self) -> Sequence[str]:
        """Decisions about this artifact that its user should hear of."""

    def write(self, folder: Path, progress: Progress) -> list[WrittenFile]:
        """Write the files below ``folder``; ``progress`` gets the artifact's bytes as they are written."""


class Runtime(Protocol):
    """An artifact loaded in the program that people will load it with."""

    def logits(self, token_ids: Sequence[int], prefill: int | None = None) -> npt.NDArray[np.float32]:
        """Logits at every position, ``[n_tokens, vocab_size]``.

        With ``prefill``, only so many tokens enter in one batch and the rest one by one through the KV cache.
        """

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = False, parse_special: bool = False
    ) -> list[list[int]]:
        """Token ids of each text.

        ``add_special`` adds the start token that the artifact asks for, ``parse_special`` recognises special tokens
        by their published names inside the text.
        """

    def greedy(self, token_ids: Sequence[int], n_predict: int) -> list[int]:
        """What the artifact says after a prompt when the likeliest token is always taken, as its users run it.

        At most ``n_predict`` ids; a token that ends a generation ends it and is not among them.
        """

    def eog_ids(self) -> list[int]:
        """Every token at which the runtime ends a generation."""


class Target(Protocol):
    """One place where models run.

    Attributes:
        name: What ``--target`` takes.
        summary: One line for ``exporter targets``.
        quants: The capability table, by name.
        aliases: Names that this target's users know a row by -> the row's name.
        choices: Which of :attr:`Options.CHANGES_ROW` it follows.
        suffix: What the names of its artifacts end in.
        default_quant: The row where ``--quant`` names none.
        backends: What artifacts can be made for, by name; empty where that is no choice.
        language: Of :meth:`commands`, as Markdown names it.
        remarks: What a model card must say about every artifact of this target.
        packages: Where apps get the runtime, in the release that was checked: package manager -> coordinate.
    """

    name: str
    summary: str
    quants: Mapping[str, Quant]
    aliases: Mapping[str, str]
    choices: frozenset[str] = frozenset()
    suffix: str
    default_quant: str
    backends: Mapping[str, Backend] = MappingProxyType({})
    language: str
    remarks: Sequence[str]
    packages: Mapping[str, str]

    def resolve(self, name: str, options: Options) -> str | None:
        """The row that a user's name and choices mean, or ``None`` if this target has none.

        Raises:
            TargetError: If the choices do not fit the row.
        """
        row = self.aliases.get(name, name)
        return row if row in self.quants else None

    def quant(self, row: str) -> Quant:
        """The capability row of that name.

        Raises:
            TargetError: If there is none.
        """
        if row not in self.quants:
            raise self.unknown(row)
        return self.quants[row]

    def unknown(self, row: str) -> TargetError:
        """What to raise where a row is none of this target's."""
        return TargetError(
            f"target {self.name} has no quantization {row!r}",
            expected=", ".join(self.quants),
            hint="run: exporter targets",
        )

    def plan(self, subject: Subject, quant: str, options: Options) -> Plan:
        """Decide an artifact; ``quant`` is a row's name.

        Raises:
            TargetError: If there is no such row, or it cannot hold this model.
        """

    def shared_files(
        self, subject: Subject, artifacts: Mapping[str, Sequence[PlannedFile]]
    ) -> Mapping[str, str | bytes]:
        """Files that the artifacts of a folder share, path -> content; ``artifacts`` maps quant -> files.

        They are in place before the first artifact is proved, because a runtime may need them.
        """

    def commands(self, files: Sequence[PlannedFile]) -> Sequence[str]:
        """Lines of code that run an artifact, for its model card; what several artifacts share appears once."""

    def runtime_versions(self) -> Mapping[str, str | None]:
        """Runtime -> version found, or ``None`` where it is not installed."""

    def linked_versions(self) -> Mapping[str, str | None]:
        """The same as apps call what they link, where the Python package around a runtime has a version of its own."""
        return self.runtime_versions()

    def require_runtime(self) -> None:
        """Find out before the work, not after it, whether the artifact can be checked here.

        Raises:
            RuntimeUnavailableError: If the runtime is absent or of an unchecked version.
        """

    def not_run(self, quant: str) -> str:
        """Why the numbers of artifacts of this row cannot be compared on this machine; empty if they can."""
        return ""

    def inspect(self, plan: Plan, files: Sequence[Path]) -> Sequence[Check]:
        """What can be found out about an artifact that cannot be run."""
        return ()

    def load(self, files: Sequence[Path]) -> Runtime:
        """Load an artifact; a runtime that refuses it may do so here or when it is asked something.

        Raises:
            RuntimeUnavailableError: If the runtime is absent or of an unchecked version.
            TargetError: If the runtime refuses the artifact.
        """

    def read_back(self, files: Sequence[Path]) -> ReadBack:
        """Read an artifact with another implementation of its format than the one that wrote it.

        Raises:
            ExporterError: If that reader refuses the artifact.
        """
