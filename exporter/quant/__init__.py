"""Quantization in the graph: what (``schemes``), how (``rounding``), and the pass that does it (``apply``)."""
