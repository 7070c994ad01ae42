"""The whole way: SmolLM2-135M-Instruct, exported to 4 bits, answering in a browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fixtures.downloads import smollm2_gguf
from tests.javascript.transformers_js import export_onnx, serving
from tests.web.support import READ, REST, SEND, STOP, TEXT, say, visit, write

pytestmark = pytest.mark.slow


def test_a_real_model_chats(chromium: str, tmp_path: Path) -> None:
    out = export_onnx(smollm2_gguf(), tmp_path / "out", "int4")
    france, italy = say("What is the capital of France?"), say("And what is the capital of Italy?")
    story = [write("Write a long story about a dog."), SEND, TEXT, STOP, REST]
    with serving(out) as url:
        seen = visit(chromium, url, *france, READ, *italy, *story, READ)
    first, last = seen.seen

    assert first["summary"] == "SmolLM2-135M-Instruct · q4"
    assert (first["load"], first["progress"]) == ("Loaded", 1)
    assert "tokens/s" in first["log"][-1]["facts"]

    texts = [message["text"] for message in last["log"]]
    assert "Paris" in texts[1]
    assert "Rome" in texts[3]
    assert last["log"][5]["facts"].endswith("stopped")

    assert {urlsplit(request).netloc for request in seen.requests} == {urlsplit(url).netloc}
    assert seen.errors == []
