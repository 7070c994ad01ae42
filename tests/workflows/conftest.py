"""The tiny model of the pipeline's tests."""

from tests.pipeline.conftest import model

__all__ = ["model"]
