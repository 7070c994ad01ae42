"""Merge lists recovered from vocabularies that rank whole pieces.

tiktoken and SentencePiece store no merges. They join the two neighbours whose *concatenation* ranks best, whichever
way that piece was first built, and take the leftmost of equals. A merge list says the same if it holds every split of
every piece into two pieces, best piece first, not only the one split that training happened to make. For Llama 3 that
is 280,147 merges, as many as the published ``tokenizer.json`` has, where one split per piece would be 127,744.

Source of the order inside one piece (ids of the left part, then of the right): ``generate_merges`` in transformers
``convert_slow_tokenizer.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def merges_of_pieces(ids: Mapping[str, int], best_first: Iterable[str]) -> tuple[str, ...]:
    """Every way to join two pieces into a third, ``"left right"``, best joined piece first.

    Args:
        ids: Piece -> id of the pieces that take part; special tokens do not.
        best_first: The same pieces in the order in which joining prefers them.
    """
    pieces = {token_id: piece for piece, token_id in ids.items()}
    merges: list[str] = []
    for piece in best_first:
        splits = [
            (ids[left], ids[right])
            for cut in range(1, len(piece))
            if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
        ]
        merges.extend(f"{pieces[left]} {pieces[right]}" for left, right in sorted(splits))
    return tuple(merges)


def merges_of_scores(ids: Mapping[str, int], scores: Sequence[float]) -> tuple[str, ...]:
    """Merges of a SentencePiece vocabulary: the higher a piece's score, the earlier it is joined."""
    return merges_of_pieces(ids, sorted(ids, key=lambda piece: -scores[ids[piece]]))


def scores_of_merges(pieces: Sequence[str], merges: Iterable[str]) -> tuple[float, ...]:
    """One score per piece that orders joined pieces as ``merges`` does; pieces that nothing joins come last.

    SentencePiece's own BPE scores are the negative rank of the piece (Llama 2: ``-(id - 259)``), and so are these.
    """
    ranks: dict[str, int] = {}
    for merge in merges:
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, len(ranks))
    return tuple(-float(ranks.get(piece, len(ranks))) for piece in pieces)
