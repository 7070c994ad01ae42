"""What the exporter costs and what its files are worth, measured; results in ``RESULTS.md``."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
"""Models that benchmarks make and keep."""
