"""Which tokens end a generation.

A chat model stops at more than its EOS token, and files name the others in different places or nowhere.
Source: llama.cpp ``src/llama-vocab.cpp``, which finds its end-of-generation set by piece text; the rows below are
that table without the rows of other architectures. Its fill-in-the-middle markers (``<reponame>`` and the like) are
left out: a chat model writes them as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
)
"""Pieces that llama.cpp takes for the end of a turn; where several exist, the first of this order is meant."""

END_OF_MESSAGE = ("<|eom_id|>",)
"""Pieces that end a message but not the turn: the model waits for a tool's answer."""

END_OF_GENERATION = frozenset((*END_OF_TURN, *END_OF_MESSAGE, "</s>", "<eos>", "[EOS]", "[EOT]"))
"""Every piece that llama.cpp stops at without being told."""


def stop_ids(special_tokens: Mapping[str, int], declared: Iterable[int | None]) -> tuple[int, ...]:
    """Ids that end a generation, ascending.

    Args:
        special_tokens: Published name -> id. Only these count: a normal piece may happen to spell ``</s>``.
        declared: Ids that the files themselves name (EOS, EOT, generation config), ``None`` for absent ones.
    """
    named = (token_id for name, token_id in special_tokens.items() if name in END_OF_GENERATION)
    return tuple(sorted({*named, *(token_id for token_id in declared if token_id is not None)}))
