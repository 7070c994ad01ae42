"""Vectors of float32 lanes for numba kernels: the type (``lanes``) and the functions on it (``functions``)."""
