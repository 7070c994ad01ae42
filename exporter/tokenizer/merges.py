"""Merge lists recovered from vocabularies that rank whole pieces, and the way back.

tiktoken and SentencePiece store no merges. They join the two neighbours whose *concatenation* ranks best, whichever
way that piece was first built, and take the leftmost of equals. A merge list says the same if it holds every split of
every piece into two pieces, best piece first. For Llama 3 that is 280,147 merges, as many as the published
``tokenizer.json`` has. One split per piece, the one that training made, is not enough: for 678 pieces the lower ranks
alone do not find it, and an ordinary Russian sentence of our probe gets other tokens than tiktoken's.

Source of the order among equals (ids of the left part, then of the right): ``generate_merges`` in transformers
``convert_slow_tokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


def merges_of_ranks(ids: Mapping[str, int], rank: Callable[[str], float]) -> tuple[str, ...]:
    """Every way to join two pieces into a third, ``"left right"``, best joined piece first.

    Args:
        ids: Piece -> id of the pieces that take part; special tokens do not.
        rank: The lower the rank of a piece, the earlier it is joined.
    """
    pieces = {token_id: piece for piece, token_id in ids.items()}
    splits = [
        (rank(piece), ids[left], ids[right])
        for piece in ids
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    return tuple(f"{pieces[left]} {pieces[right]}" for _, left, right in sorted(splits))


def merges_of_scores(ids: Mapping[str, int], scores: Sequence[float]) -> tuple[str, ...]:
    """Merges of a SentencePiece vocabulary: the higher a piece's score, the earlier it is joined."""
    return merges_of_ranks(ids, lambda piece: -scores[ids[piece]])


def scores_of_merges(pieces: Sequence[str], merges: Sequence[str]) -> tuple[float, ...]:
    """One score per piece that orders joined pieces as ``merges`` does; pieces that nothing joins come last.

    SentencePiece's own BPE scores are negative ranks, and so are these. Where the merges of several pieces
    interleave, these pieces had equal scores (Llama 2's runs of spaces), and they get equal ones.
    """
    spans: dict[str, tuple[int, int]] = {}
    for position, merge in enumerate(merges):
        joined = merge.replace(" ", "", 1)
        first, _ = spans.get(joined, (position, position))
        spans[joined] = (first, position)
    ranks: dict[str, int] = {}
    rank, end = -1, -1
    for joined, (first, last) in spans.items():  # In the order of first positions.
        rank += first > end
        end = max(end, last)
        ranks[joined] = rank
    return tuple(-float(ranks.get(piece, rank + 1)) for piece in pieces)
