"""What runtimes make of the activations that a quantized matrix multiplies.

``xnn_f32_qd8_asymmetric_quantization_params`` (XNNPACK ``src/xnnpack/quantization.h``) chooses scale and zero point of
a row; ``xnn_compute_f32_qd8_convert`` (``src/operator-run.c``) applies them. ``tests/executorch/test_logits.py``
compares the runtime with a reference that rounds like this.
"""

from __future__ import annotations

import torch


def dynamic_int8(x: torch.Tensor) -> torch.Tensor:
    """Rows of float32 ``[..., width]`` as asymmetric 8-bit integers with a scale and a zero point each, decoded.

    255 steps go from the least to the largest of a row and 0; 0 is exact.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    steps = torch.where(high > low, 255 / (high - low), 1.0)
    # Counted from the end that is nearer to 0; -128 and 127 are not equally far from it.
    zero = torch.where((low + high) * steps > 1, -128 - low * steps, 127 - high * steps).round()
    return ((x * steps).round() + zero).clamp(-128, 127).sub(zero) / steps
