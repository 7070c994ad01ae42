"""How a peer's cost compares with ours, as one cell of a table."""

from __future__ import annotations

from benchmarks.measure import Usage


def ratios(peer: tuple[Usage, int], ours: tuple[Usage, int]) -> str:
    """CPU, wall time, memory and file size of the peer divided by ours."""
    (theirs, their_bytes), (usage, nbytes) = peer, ours
    pairs = (
        (theirs.cpu_seconds, usage.cpu_seconds),
        (theirs.wall_seconds, usage.wall_seconds),
        (theirs.peak_anon_bytes, usage.peak_anon_bytes),
        (their_bytes, nbytes),
    )
    return " / ".join(f"{a / b:.2g}" for a, b in pairs)
