"""Compiling, running and linting the sample, with the tools at hand instead of Gradle."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.android.tools import Tools
from scripts.checking import Outcome, outcome
from scripts.faults import VECTORS

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "android"
STUBS = ROOT / "tests" / "android" / "stubs"
PACKAGE = "org.example.guardedchat"

CATALOG = tomllib.loads((SAMPLE / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))["versions"]
"""Versions that the Gradle build takes."""


@dataclass(frozen=True)
class Workshop:
    """The tools, and a folder for what they make."""

    tools: Tools
    scratch: Path

    @property
    def core(self) -> Path:
        return self.scratch / "core.jar"

    @property
    def core_tests(self) -> Path:
        return self.scratch / "core-tests.jar"

    @property
    def generated(self) -> Path:
        """Java sources that Gradle's Android plugin would generate."""
        return self.scratch / "generated"

    def compile_core(self) -> Outcome:
        return self._kotlinc(self.core, [SAMPLE / "core/src/main/kotlin"])

    def compile_core_tests(self) -> Outcome:
        # As in Gradle, tests see what is internal to the module.
        friends = f"-Xfriend-paths={self.core}"
        return self._kotlinc(
            self.core_tests, [SAMPLE / "core/src/test/kotlin"], [self.core, *self.tools.junit], friends
        )

    def run_core_tests(self, vectors: Path = VECTORS) -> Outcome:
        stdlib = self.tools.kotlin / "lib/kotlin-stdlib.jar"
        classes = _path([self.core, self.core_tests, *self.tools.junit, stdlib])
        sources = SAMPLE / "core/src/test/kotlin"
        tests = [path for path in sorted(sources.rglob("*.kt")) if "@Test" in path.read_text(encoding="utf-8")]
        names = [".".join(path.relative_to(sources).with_suffix("").parts) for path in tests]
        return self._java(f"-Dvectors={vectors}", "-cp", classes, "org.junit.runner.JUnitCore", *names)

    def link_resources(self) -> Outcome:
        """Compile the resources, link them with the manifest against Android's own, and generate ``R.java``."""
        app, compiled = SAMPLE / "app/src/main", self.scratch / "resources.zip"
        manifest = self.scratch / "AndroidManifest.xml"
        # Gradle knows the package from `namespace`.
        text = (app / "AndroidManifest.xml").read_text(encoding="utf-8")
        manifest.write_text(text.replace("<manifest ", f'<manifest package="{PACKAGE}" '), encoding="utf-8")
        done = self._aapt2("compile", "--dir", app / "res", "-o", compiled)
        if not done.ok:
            return done
        return self._aapt2(
            "link", "-I", self.tools.framework, "--manifest", manifest, "--java", self.generated,
            "--min-sdk-version", "28", "-o", self.scratch / "resources.apk", compiled,
        )  # fmt: skip

    def generate_build_config(self) -> None:
        path = self.generated.joinpath(*PACKAGE.split("."), "BuildConfig.java")
        field = f'public static final String EXECUTORCH_VERSION = "{CATALOG["executorch"]}";'
        path.write_text(f"package {PACKAGE};\n\npublic final class BuildConfig {{ {field} }}\n", encoding="utf-8")

    def compile_app(self, sources: Path = SAMPLE / "app/src/main/kotlin") -> Outcome:
        classes = [self.core, self.tools.executorch]
        return self._kotlinc(self.scratch / "app.jar", [sources, STUBS, self.generated], classes)

    def lint(self, *patterns: str, folder: Path = SAMPLE) -> Outcome:
        return self._java("-jar", self.tools.ktlint, "--relative", *patterns, folder=folder)

    def _kotlinc(self, jar: Path, sources: Sequence[Path], classes: Sequence[Path] = (), *options: str) -> Outcome:
        library = self.tools.kotlin / "lib"
        language = re.match(r"\d+\.\d+", CATALOG["kotlin"])[0]  # type: ignore[index]
        return self._java(
            "-Xmx1g", "-cp", library / "kotlin-preloader.jar", "org.jetbrains.kotlin.preloading.Preloader",
            "-cp", library / "kotlin-compiler.jar", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
            "-kotlin-home", self.tools.kotlin, "-language-version", language, "-api-version", language,
            "-jvm-target", "17", "-no-reflect", "-Werror", *options, "-cp", _path(classes), "-d", jar, *sources,
        )  # fmt: skip

    def _java(self, *arguments: str | Path, folder: Path = SAMPLE) -> Outcome:
        return outcome([*self.tools.java, *arguments], folder)

    def _aapt2(self, *arguments: str | Path) -> Outcome:
        return outcome([self.tools.aapt2, *arguments], SAMPLE, LD_LIBRARY_PATH=_path(self.tools.libraries))


def _path(parts: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, parts))
