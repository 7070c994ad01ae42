"""What these tests need before they run: Node.js, the packages of the page, and for some of them Chromium."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.web.support import PAGE

INSTALL_PACKAGES = f"npm ci --prefix {PAGE.relative_to(PAGE.parents[1])} --ignore-scripts"


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """Node.js, and Transformers.js and Playwright under ``examples/web/node_modules``."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed: apt-get install nodejs npm")
    for package in ("@huggingface/transformers", "playwright-core"):
        if not (PAGE / "node_modules" / package).is_dir():
            pytest.skip(f"{package} is not installed: {INSTALL_PACKAGES}")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser: ``CHROMIUM`` or the one on the path."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not found:
        pytest.skip("Chromium is not installed: apt-get install chromium, or name its file in CHROMIUM")
    return found
