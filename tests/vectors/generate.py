"""Write the vectors: ``python -m tests.vectors.generate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.vectors import budgets, bundles, guards, prompts

FOLDER = Path(__file__).parent
MADE_BY = {"budgets": budgets, "bundles": bundles, "guard": guards, "prompts": prompts}


def text(vectors: dict[str, Any]) -> str:
    """ASCII alone, so that no editor changes the white space that the cases are about."""
    return json.dumps(vectors, indent=1) + "\n"


def texts() -> dict[Path, str]:
    """File -> what belongs into it."""
    return {FOLDER / f"{name}.json": text(module.vectors()) for name, module in MADE_BY.items()}


if __name__ == "__main__":
    for path, content in texts().items():
        path.write_text(content, encoding="ascii")
        print(path.name, len(content))
