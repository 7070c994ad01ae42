"""What float16 holds, for the capability rows of artifacts that compute in it."""

MAX_HALF = 65504.0 / 4
"""Float16 ends at 65504; two bits are left for what other texts may reach."""

RESIDUAL_HEADROOM = 8
"""How many times larger than float16's limit a term of the residual stream may be; a power of two rounds nothing.
SmolLM2-135M reaches 25,000 after the feed-forward of its twelfth layer, whatever the text."""
