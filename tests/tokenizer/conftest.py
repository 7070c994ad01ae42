from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.tokenizer import Tokenizer, from_gguf, read_meta
from tests.fixtures.downloads import llama3_tokenizer_model, smollm2_gguf


@pytest.fixture(scope="session")
def meta_folder() -> Path:
    return llama3_tokenizer_model().parent


@pytest.fixture(scope="session")
def llama3(meta_folder: Path) -> Tokenizer:
    """The real tokenizer of Llama 3."""
    return read_meta(meta_folder)


@pytest.fixture(scope="session")
def smollm2_fields() -> Mapping[str, Any]:
    """Metadata of the real SmolLM2-135M-Instruct GGUF."""
    import gguf

    reader = gguf.GGUFReader(smollm2_gguf())
    return {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}


@pytest.fixture(scope="session")
def smollm2(smollm2_fields: Mapping[str, Any]) -> Tokenizer:
    return from_gguf(smollm2_fields)
