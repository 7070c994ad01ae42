"""Building, testing, parsing and formatting the sample, with any Swift."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.changed_vectors import VECTORS
from scripts.checking import Outcome
from scripts.fetching import Missing
from scripts.ios import llama_headers
from scripts.ios.toolchain import Toolchain

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "ios"
DECLARATIONS = ROOT / "tests" / "ios" / "declarations"
"""Modules of ExecuTorch's that exist for Apple's systems only, one a file."""

STRICT = ("-warnings-as-errors",)
LANGUAGE = ("-swift-version", "5")
BUILT = "core/.build/debug"
WITHOUT_SCREENS = ("Engines", "Models")
"""Folders of the app that import no SwiftUI, which exists for Apple's systems only."""


@dataclass(frozen=True)
class Workshop:
    """A Swift, and a folder with copies of the sample in which it may write."""

    swift: Toolchain
    scratch: Path

    def __post_init__(self) -> None:
        shutil.copytree(SAMPLE / "GuardedChatCore", self.scratch / "core", ignore=shutil.ignore_patterns(".build"))
        shutil.copytree(SAMPLE / "App", self.scratch / "app")
        shutil.copytree(VECTORS, self.scratch / "vectors", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.copytree(DECLARATIONS, self.scratch / "declarations")
        shutil.copy(SAMPLE / ".swift-format", self.scratch)

    @property
    def version(self) -> str:
        """What Swift says of itself."""
        return self._swift("swift", "--version").text.splitlines()[0]

    def build_core(self, *options: str) -> Outcome:
        strict = [part for option in STRICT for part in ("-Xswiftc", option)]
        return self._swift("swift", "build", "--package-path", "core", *strict, *options)

    def build_core_tests(self) -> Outcome:
        return self.build_core("--build-tests")

    def run_core_tests(self, vectors: str = "vectors") -> Outcome:
        # As all else, the tests are told a path as Swift sees it.
        path = f"{self.swift.seen(self.scratch)}/{vectors}"
        return self._swift("swift", "test", "--package-path", "core", "--skip-build", VECTORS=path)

    def check_core(self, folder: str) -> Outcome:
        """Type-check core's sources, which takes a fraction of the time of building them."""
        return self._check_types("GuardedChatCore", self._files(f"{folder}/Sources"))

    def declare(self) -> Outcome:
        """Compile the declarations, and put llama.cpp's beside them.

        Raises:
            Missing: llama.cpp's header cannot be fetched.
        """
        shutil.copytree(llama_headers.fetch(), self.scratch / "llama")
        for path in sorted((self.scratch / "declarations").glob("*.swift")):
            module = ("-module-name", path.stem, "-emit-module-path", f"modules/{path.stem}.swiftmodule")
            done = self._swift("swiftc", "-parse-as-library", "-emit-module", *module, f"declarations/{path.name}")
            if not done.ok:
                return done
        return done

    def check_app(self, folder: str = "app") -> Outcome:
        """Type-check the app but for its screens, against core, llama.cpp's header and ExecuTorch's declarations.

        Raises:
            Missing: llama.cpp's header is not here.
        """
        self._require_llama()
        files = [file for name in WITHOUT_SCREENS for file in self._files(f"{folder}/{name}")]
        return self._check_types("GuardedChat", files, *self._imports("modules", f"{BUILT}/Modules", "llama"))

    def link(self, program: str, files: Sequence[str], libraries: str, linked: Sequence[str]) -> Outcome:
        """Compile files to a program with core in it, and with shared libraries that it finds in a folder.

        Raises:
            Missing: llama.cpp's header is not here.
        """
        self._require_llama()
        objects = (self.scratch / BUILT / "GuardedChatCore.build").glob("*.o")
        core = [str(path.relative_to(self.scratch)) for path in objects]
        found = (f"-L{libraries}", "-Xlinker", "-rpath", "-Xlinker", f"{self.swift.seen(self.scratch)}/{libraries}")
        imports = self._imports(f"{BUILT}/Modules", "llama")
        return self._swift("swiftc", "-o", program, *LANGUAGE, *imports, *files, *core, *found, *linked)

    def parse(self, folder: str = "app") -> Outcome:
        """Parse the app, its screens included."""
        return self._swift("swiftc", "-frontend", "-parse", *LANGUAGE, *self._files(folder))

    def lint(self, *paths: str) -> Outcome:
        """Check the code style.

        Raises:
            Missing: This Swift has no formatter.
        """
        if not self._swift("swift", "format", "--version").ok:
            raise Missing("this Swift has no swift-format")
        configuration = ("--configuration", ".swift-format")
        return self._swift("swift", "format", "lint", "--strict", "--recursive", *configuration, *paths)

    def copy(self, folder: str, name: str) -> Path:
        """Another copy of one of the folders, to do something to it."""
        return shutil.copytree(self.scratch / folder, self.scratch / name, ignore=shutil.ignore_patterns(".build"))

    def _check_types(self, module: str, files: Sequence[str], *options: str) -> Outcome:
        # As a whole, because the compiler would stop behind the first file that is wrong.
        whole = ("-wmo", "-parse-as-library", "-module-name", module)
        return self._swift("swiftc", "-typecheck", *whole, *LANGUAGE, *STRICT, *options, *files)

    def _require_llama(self) -> None:
        if not (self.scratch / "llama").is_dir():
            raise Missing("llama.cpp's header is not here")

    def _imports(self, *folders: str) -> list[str]:
        return [part for folder in folders for part in ("-I", folder)]

    def _files(self, folder: str) -> list[str]:
        return sorted(str(path.relative_to(self.scratch)) for path in (self.scratch / folder).rglob("*.swift"))

    def _swift(self, *command: str, **environment: str) -> Outcome:
        return self.swift.run(self.scratch, *command, **environment)
