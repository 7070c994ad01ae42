"""Where the bits of 4-bit integers go: two a byte, the even column in the lower half, each 8 more than its value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pack_4(ints: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """int8 ``[n, k]`` in [-8, 7] -> uint8 ``[n, k / 2]``."""
    levels = ints.view(np.uint8) + np.uint8(8)
    return levels[:, 0::2] | levels[:, 1::2] << np.uint8(4)


def unpack_4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The inverse of :func:`pack_4`."""
    ints = np.empty((len(packed), packed.shape[1] * 2), np.int8)
    ints[:, 0::2] = (packed & np.uint8(15)).astype(np.int8) - np.int8(8)
    ints[:, 1::2] = (packed >> np.uint8(4)).astype(np.int8) - np.int8(8)
    return ints
