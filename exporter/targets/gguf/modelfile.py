"""Ollama's Modelfile: which file, and every string at which generation must stop.

Format: Ollama's ``docs/modelfile.md``. The chat template is not repeated: Ollama reads it from the GGUF.
"""

from __future__ import annotations

import json

from exporter.tokenizer import Tokenizer


def render(file_name: str, tokenizer: Tokenizer, *, greedy: bool) -> str:
    """The Modelfile for ``file_name``, which lies beside it; ``greedy`` where only the best token may be said."""
    stops = [tokenizer.pieces[token_id] for token_id in tokenizer.stop_ids]
    lines = [f"FROM ./{file_name}", *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops)]
    if greedy:
        lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"
