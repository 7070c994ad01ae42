"""Published recipes, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from exporter.errors import GraphError
from exporter.prune_guard.grammar import Language, parse


@dataclass(frozen=True)
class GuardRecipe:
    """How a Llama becomes a guard for phones.

    Attributes:
        n_layers: Blocks that stay.
        ffn_dim: Neurons of each MLP that stay.
        importance: What decides, see :mod:`exporter.prune_guard.methods`.
        grammar: File in ``exporter/data`` with what the guard may say.
        quants: Target -> quantization.
        rounds_for: The target of these whose rounding a training has.
    """

    n_layers: int
    ffn_dim: int
    importance: str
    grammar: str
    quants: Mapping[str, str]
    rounds_for: str

    def language(self) -> Language:
        return parse(resources.files("exporter").joinpath("data", self.grammar).read_text(encoding="utf-8"))


RECIPES = {
    # Fedorov et al. 2024, Llama Guard 3-1B-INT4 (arXiv 2411.17713): depth, width, scores, group size of the linears.
    # The embedding's 4 bits in groups of 32 follow from the size of the published .pte, 458,464,800 bytes.
    "llama-guard-3-1b-int4": GuardRecipe(
        n_layers=12,
        ffn_dim=6400,
        importance="block-influence",
        grammar="llama_guard.gbnf",
        quants={"executorch": "int4-g256-e4g32", "gguf": "int4", "onnx": "int4"},
        rounds_for="executorch",
    ),
}


def get(name: str) -> GuardRecipe:
    """The recipe of that name.

    Raises:
        GraphError: There is none.
    """
    if name not in RECIPES:
        raise GraphError(f"unknown recipe {name!r}", expected=", ".join(RECIPES), found=name)
    return RECIPES[name]
