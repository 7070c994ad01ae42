"""Machine code is kept for exactly the kernels it was compiled from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numba
import pytest

from exporter.simd import cache, functions


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "exporter"
    shutil.copytree(cache.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "PACKAGE", copy)
    return copy


def folder() -> Path:
    return cache.kernel_cache_folder.__wrapped__()


def test_the_same_sources_share_a_folder(package: Path) -> None:
    assert folder() == folder()
    assert folder().is_relative_to(package)


@pytest.mark.parametrize(
    "changed", ["simd/functions.py", "quant/rounding/portable.py", "targets/gguf/kernels/floats.py"]
)
def test_a_changed_helper_starts_a_new_folder(package: Path, changed: str) -> None:
    before = folder()
    with (package / changed).open("a") as file:
        file.write("# changed\n")
    assert folder() != before


def test_a_read_only_package_keeps_its_kernels_in_the_users_cache(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folder().parent == tmp_path / "cache" / "exporter"


def test_numbas_own_setting_is_left_alone() -> None:
    before = numba.config.CACHE_DIR
    functions.jit(lambda x: x)
    assert before == numba.config.CACHE_DIR
