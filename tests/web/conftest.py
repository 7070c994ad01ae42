"""What these tests need before they run: Node.js, the packages of the page, and for some of them Chromium."""

from __future__ import annotations

import pytest

from tests.javascript import transformers_js


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """Node.js, and Transformers.js and Playwright under ``examples/web/node_modules``."""
    transformers_js.require_node()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    return transformers_js.chromium()
