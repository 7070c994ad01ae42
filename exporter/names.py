"""The weights of a Llama under the three names the world gives them, and their shapes.

One row per weight. Readers translate a file's names into the canonical ones with it, the GGUF target translates
back, and everybody learns from it which weights a model has and in which order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporter.config import ModelConfig

Convention = Literal["canonical", "huggingface", "gguf"]


@dataclass(frozen=True)
class Weight:
    """One weight, or one weight of every layer where the names hold ``{}``.

    Attributes:
        canonical: Meta's name (llama_models, ``llama3/model.py``).
        huggingface: Name in ``LlamaForCausalLM`` (transformers, ``models/llama/modeling_llama.py``).
        gguf: Name in a GGUF of architecture ``llama`` (gguf-py, ``constants.py``, ``TENSOR_NAMES``).
        dims: Names of the axes, outermost first; ``dimensions`` gives their sizes.
    """

    canonical: str
    huggingface: str
    gguf: str
    dims: tuple[str, ...]

    @property
    def per_layer(self) -> bool:
        return "{}" in self.canonical


EMBEDDING = "tok_embeddings.weight"
HEAD = "output.weight"


def _model(canonical: str, huggingface: str, gguf: str, *dims: str) -> Weight:
    return Weight(f"{canonical}.weight", f"{huggingface}.weight", f"{gguf}.weight", dims)


def _layer(canonical: str, huggingface: str, gguf: str, *dims: str) -> Weight:
    return _model(f"layers.{{}}.{canonical}", f"model.layers.{{}}.{huggingface}", f"blk.{{}}.{gguf}", *dims)


# fmt: off
WEIGHTS: tuple[Weight, ...] = (
    _model("tok_embeddings",  "model.embed_tokens",       "token_embd",  "vocab", "dim"),
    _layer("attention_norm",  "input_layernorm",          "attn_norm",   "dim"),
    _layer("attention.wq",    "self_attn.q_proj",         "attn_q",      "q", "dim"),
    _layer("attention.wk",    "self_attn.k_proj",         "attn_k",      "kv", "dim"),
    _layer("attention.wv",    "self_attn.v_proj",         "attn_v",      "kv", "dim"),
    _layer("attention.wo",    "self_attn.o_proj",         "attn_output", "dim", "q"),
    _layer("ffn_norm",        "post_attention_layernorm", "ffn_norm",    "dim"),
    _layer("feed_forward.w1", "mlp.gate_proj",            "ffn_gate",    "ffn", "dim"),
    _layer("feed_forward.w3", "mlp.up_proj",              "ffn_up",      "ffn", "dim"),
    _layer("feed_forward.w2", "mlp.down_proj",            "ffn_down",    "dim", "ffn"),
    _model("norm",            "model.norm",               "output_norm", "dim"),
    _model("output",          "lm_head",                  "output",      "head", "dim"),
)
# fmt: on
"""Every weight of the architecture, in graph order."""


def dimensions(config: ModelConfig) -> dict[str, int]:
    """Sizes of the named axes of :data:`WEIGHTS`."""
    return {
        "vocab": config.vocab_size,
        "head": config.head_rows,
        "dim": config.dim,
        "q": config.n_heads * config.head_dim,
        "kv": config.n_kv_heads * config.head_dim,
        "ffn": config.ffn_dim,
    }


def _in_graph_order(n_layers: int) -> list[tuple[Weight, int | None]]:
    """Each weight with its layer: what precedes the layers, the layers one by one, what follows them."""
    layer = [w for w in WEIGHTS if w.per_layer]
    first, last = WEIGHTS.index(layer[0]), WEIGHTS.index(layer[-1])
    return [
        *((w, None) for w in WEIGHTS[:first]),
        *((w, i) for i in range(n_layers) for w in layer),
        *((w, None) for w in WEIGHTS[last + 1 :]),
    ]


def name_map(source: Convention, target: Convention, n_layers: int) -> dict[str, str]:
    """Every weight name of an ``n_layers`` model in one convention -> the same in another, in graph order."""
    return {
        getattr(weight, source).format(layer): getattr(weight, target).format(layer)
        for weight, layer in _in_graph_order(n_layers)
    }


def adaptor_names(weight: str) -> tuple[str, str]:
    """Names of the two matrices of the low-rank adaptor beside a weight, ``A [rank, in]`` and ``B [out, rank]``.

    They are Meta's (executorch ``examples/models/llama/source_transformation/lora.py``); no other convention has any.
    """
    stem = weight.removesuffix(".weight")
    return f"{stem}.adaptor.A.weight", f"{stem}.adaptor.B.weight"


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every weight that a model of this configuration has, in graph order.

    ``output.weight`` is among them unless the head is known to be the embedding: a reader leaves
    ``tied_embeddings`` open (``None``) only where the file holds a head that may be a copy.
    """
    size, rank = dimensions(config), config.lora_rank
    found: dict[str, tuple[int, ...]] = {}
    for weight, layer in _in_graph_order(config.n_layers):
        if weight.canonical == HEAD and config.tied_embeddings:
            continue
        name, shape = weight.canonical.format(layer), tuple(size[d] for d in weight.dims)
        found[name] = shape
        if rank and weight.per_layer and len(shape) == 2:
            down, up = adaptor_names(name)
            found |= {down: (rank, shape[1]), up: (shape[0], rank)}
    return found
