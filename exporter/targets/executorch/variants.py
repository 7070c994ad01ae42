"""Rows with choices in them: ``int4-g128-e4g32`` is ``int4`` with groups of 128 and an embedding of 4 bits, group 32,
``f32-portable`` is ``f32`` for the backend portable.

A choice is part of the row's name, so that the file, the manifest and ``exporter verify`` need no other word for it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from exporter.errors import TargetError
from exporter.quant.schemes import EMBEDDING, INT4, LINEAR, Recipe, Rule, Scheme
from exporter.targets.base import Options
from exporter.targets.executorch import backends
from exporter.targets.executorch.capabilities import QUANTS, REFUSED, ROWS, ExecuTorchQuant

GROUP_SIZES = (32, 64, 128, 256)
"""Of 4-bit integers. XNNPACK takes multiples of 32 (``xnn_define_blockwise_quantized_tensor_value``)."""

_NAME = re.compile(
    r"(?P<base>[a-z0-9]+)(-g(?P<group>\d+))?(-e4g(?P<embedding>\d+))?"
    f"(-(?P<backend>{'|'.join(backends.BACKENDS)}))?"
)


@dataclass(frozen=True)
class Variant:
    """A row and what was chosen beside it.

    Attributes:
        base: Name of a row of the table.
        group_size: Columns that share a scale in layers of 4-bit integers, if the row has such.
        embedding_group: The same for an embedding of 4 bits; ``None`` leaves it to the row.
        backend: What it is made for.
    """

    base: str
    group_size: int | None = None
    embedding_group: int | None = None
    backend: str = backends.DEFAULT

    @property
    def name(self) -> str:
        group = "" if self.group_size in (None, INT4.group_size) else f"-g{self.group_size}"
        embedding = "" if self.embedding_group is None else f"-e4g{self.embedding_group}"
        backend = "" if self.backend == backends.DEFAULT else f"-{self.backend}"
        return self.base + group + embedding + backend

    @property
    def exists(self) -> bool:
        """Whether somebody who names the row means this target; the answer may be a refusal."""
        named = backends.BACKENDS[self.backend]
        return bool(named.missing) or self.base in named.quants or (self.backend, self.base) in REFUSED

    def row(self) -> ExecuTorchQuant:
        """The capability row.

        Raises:
            TargetError: If the backend does not have the row or cannot be built for, a group size is none of
                ``GROUP_SIZES``, or the row has nothing to choose.
        """
        backends.get(self.backend)
        if self.base not in ROWS[self.backend]:
            raise TargetError(
                f"the backend {self.backend} does not compute {self.base}",
                expected=", ".join(ROWS[self.backend]),
                found=self.base,
                hint=REFUSED.get((self.backend, self.base)),
            )
        row = ROWS[self.backend][self.base]
        if self.backend != backends.DEFAULT:
            self._require_no_choice()
        rules = row.recipe.rules
        summary, max_rounding = row.summary, row.max_rounding
        if self.group_size not in (None, INT4.group_size):
            _require_group(self.group_size)
            if not any(rule.encoding == INT4 for rule in rules):
                raise TargetError(
                    f"{self.base} has no groups", expected="int4", found=f"--group-size {self.group_size}"
                )
            rules = tuple(
                Rule(rule.roles, INT4.in_groups(self.group_size)) if rule.roles == frozenset({LINEAR}) else rule
                for rule in rules
            )
            summary += f"; groups of {self.group_size}"
        if self.embedding_group is not None:
            _require_group(self.embedding_group)
            if not any(isinstance(rule.encoding, Scheme) for rule in rules):
                raise TargetError(
                    f"{self.base} keeps every weight as it is", expected="int8 or int4", found="--embedding"
                )
            rules = (Rule(frozenset({EMBEDDING}), INT4.in_groups(self.embedding_group)), *rules)
            summary += f"; embedding 4-bit, group {self.embedding_group}"
            max_rounding = QUANTS["int4"].max_rounding
        return dataclasses.replace(
            row, name=self.name, summary=summary, max_rounding=max_rounding, recipe=Recipe(self.name, rules)
        )

    def _require_no_choice(self) -> None:
        if self.group_size not in (None, INT4.group_size) or self.embedding_group is not None:
            raise TargetError(
                f"the rows of the backend {self.backend} have no group sizes to choose",
                expected=f"--backend {backends.DEFAULT}, or none of --group-size and --embedding",
                found=self.name,
            )


_BASES = frozenset().union(*ROWS.values())


def parse(name: str) -> Variant | None:
    """The variant of that name, or ``None`` if it is none."""
    match = _NAME.fullmatch(name)
    if match is None or match["base"] not in _BASES:
        return None
    group, embedding = (None if match[key] is None else int(match[key]) for key in ("group", "embedding"))
    return Variant(match["base"], group, embedding, match["backend"] or backends.DEFAULT)


def chosen(variant: Variant, options: Options) -> Variant:
    """The variant that a user's choices make of another.

    Raises:
        TargetError: If ``--embedding`` is not to be understood, or there is no such backend.
    """
    group = variant.group_size if options.group_size is None else options.group_size
    embedding = variant.embedding_group if options.embedding is None else _embedding_group(options.embedding)
    backend = variant.backend if options.backend is None else backends.get(options.backend).name
    return Variant(variant.base, group, embedding, backend)


def _embedding_group(text: str) -> int | None:
    """Group size of ``4,32``; ``None`` for ``8`` or ``8,0``, which the 8-bit rows have anyway."""
    if text in ("8", "8,0"):
        return None
    bits, _, group = text.partition(",")
    if bits != "4" or not group.isdecimal():
        raise TargetError(f"--embedding {text} is not understood", expected="4,32 (bits, group) or 8", found=text)
    return int(group)


def _require_group(size: int | None) -> None:
    if size not in GROUP_SIZES:
        raise TargetError(
            "XNNPACK has no kernel for this group size", expected=", ".join(map(str, GROUP_SIZES)), found=size
        )
