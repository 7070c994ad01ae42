"""The page in a browser, on models that say what the test wants (``talkers.py``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from exporter.tokenizer import load_tokenizer_folder
from tests.javascript.transformers_js import export_onnx, serving
from tests.web import talkers
from tests.web.support import (
    READ,
    REST,
    SEND,
    STOP,
    TEXT,
    Visit,
    choose,
    options,
    press,
    say,
    visit,
    write,
)

pytestmark = pytest.mark.slow

LOAD = {"do": "click", "button": "Load"}
CHAT_ONLY = [choose("Chat model", "Tiny-Chat"), choose("Variant", "fp32")]
GUARD = [choose("Llama Guard", "Tiny-Guard"), choose("Variant of the guard", "fp32")]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> output folder of a chat model and a guard."""
    folder = tmp_path_factory.mktemp("talkers")
    chat = talkers.write_talker(folder / "Tiny-Chat", talkers.CHAT, talkers.CHAT_TEMPLATE)
    guard = talkers.write_talker(folder / "Tiny-Guard", talkers.GUARD, talkers.GUARD_TEMPLATE)
    return {
        "chat": export_onnx(chat, folder / "chat", "f32", "f16", "int8", "int4", "q8", "q4f16"),
        "guard": export_onnx(guard, folder / "guard", "f32"),
    }


@pytest.fixture(scope="module")
def url(exports: dict[str, Path]) -> Iterator[str]:
    with serving(exports["guard"], exports["chat"]) as address:
        yield address


def messages(state: dict[str, Any], kind: str) -> list[str]:
    return [message["text"] for message in state["log"] if message["kind"] == kind]


def chips(state: dict[str, Any]) -> list[list[str]]:
    return [message["chips"] for message in state["log"] if message["kind"] == "user"]


def tokens_read(state: dict[str, Any]) -> list[int]:
    """Length of the prompt of each answer."""
    facts = [message["facts"] for message in state["log"] if message["kind"] == "assistant"]
    return [int(re.search(r"(\d+) tokens read", text)[1]) for text in facts]  # type: ignore[index]


def prompt_length(exports: dict[str, Path], *turns: tuple[str, str]) -> int:
    """What the exporter's own tokenizer makes of a conversation."""
    tokenizer = load_tokenizer_folder(exports["chat"] / "onnx")
    prompt = tokenizer.render_chat([{"role": role, "content": content} for role, content in turns])
    return len(tokenizer.encode(prompt, parse_special=True))


def assert_local(seen: Visit, url: str) -> None:
    """All went to the page's own server, the worker's downloads too, and the console is clean."""
    paths = {urlsplit(request).path for request in seen.requests}
    assert "/vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm" in paths
    assert any(path.startswith("/models/") for path in paths)
    assert {urlsplit(request).netloc for request in seen.requests} == {urlsplit(url).netloc}
    assert seen.errors == []


# --- Pickers -------------------------------------------------------------------------------------------------------


def test_pickers_list_models_variants_and_devices(chromium: str, url: str) -> None:
    seen = visit(chromium, url, *map(options, ("Chat model", "Variant", "Llama Guard", "Run on")), READ).seen
    assert seen[0] == ["None: verdicts only", "Tiny-Guard", "Tiny-Chat"]
    assert [option.split()[0] for option in seen[1]] == ["q4f16", "q4", "int8", "q8", "fp16", "fp32"]
    assert seen[2] == ["Off", "Tiny-Guard", "Tiny-Chat"]
    assert seen[3] == ["Processor (WebAssembly)"]
    assert seen[4]["summary"] == "Tiny-Chat · q8"  # no guard where there is another model
    assert seen[4]["isolated"]


def test_webgpu_is_offered_with_an_adapter_and_half_precision_with_shader_f16(chromium: str, url: str) -> None:
    gpu = choose("Run on", "webgpu")
    plain = visit(chromium, url, options("Run on"), gpu, options("Variant"), gpu=[])
    assert plain.seen[0] == ["Processor (WebAssembly)", "GPU (WebGPU, pretended)"]
    assert [option.split()[0] for option in plain.seen[1]] == ["q4", "int8", "q8", "fp32"]
    half = visit(chromium, url, gpu, options("Variant"), gpu=["shader-f16"])
    assert [option.split()[0] for option in half.seen[0]] == ["q4f16", "q4", "int8", "q8", "fp16", "fp32"]


# --- Conversation --------------------------------------------------------------------------------------------------


def test_two_turns(chromium: str, url: str, exports: dict[str, Path]) -> None:
    loading = [*CHAT_ONLY, READ, LOAD, REST, READ]
    seen = visit(chromium, url, *loading, *say("Are you there?"), READ, *say("And now?"), READ)
    before, loaded, first, second = seen.seen

    assert (before["load"], before["progress"]) == ("Load 0.7 MB", None)
    assert (loaded["load"], loaded["progress"]) == ("Loaded", 1)
    assert re.fullmatch(r"Ready: 0\.\d MB in [\d.]+ s, \d+ threads?", loaded["status"])

    assert messages(first, "assistant") == ["Yes"]
    facts = r"[\d.]+ tokens/s · first token after [\d.]+ s · \d+ tokens read, 4 written · fp32, wasm"
    assert re.fullmatch(facts, first["log"][-1]["facts"])

    turns = [("user", "Are you there?"), ("assistant", "Yes"), ("user", "And now?")]
    assert tokens_read(second) == [prompt_length(exports, turns[0]), prompt_length(exports, *turns)]
    assert_local(seen, url)


def test_a_new_chat_forgets(chromium: str, url: str, exports: dict[str, Path]) -> None:
    new = {"do": "click", "button": "New chat"}
    (state,) = visit(chromium, url, *CHAT_ONLY, *say("Are you there?"), new, *say("Hello?"), READ).seen
    assert messages(state, "user") == ["Hello?"]
    assert tokens_read(state) == [prompt_length(exports, ("user", "Hello?"))]


def test_stop_ends_an_answer_and_keeps_it(chromium: str, url: str) -> None:
    sing = [write("Sing!"), SEND, TEXT]
    steps = [*CHAT_ONLY, *sing, READ, STOP, REST, READ, *sing, press("Escape"), REST, READ, *say("Thanks?"), READ]
    singing, stopped, again, after = visit(chromium, url, *steps).seen
    assert singing["send"] == "Stop"
    assert stopped["send"] == "Send"
    assert re.match("la la", messages(stopped, "assistant")[0])
    assert stopped["log"][-1]["facts"].endswith("· stopped")
    assert again["log"][-1]["facts"].endswith("· stopped")
    assert tokens_read(after)[-1] > tokens_read(after)[0] + len(messages(stopped, "assistant")[0])


def test_stop_ends_loading_and_gives_the_message_back(chromium: str, url: str) -> None:
    stopped, after = visit(chromium, url, *CHAT_ONLY, write("Now?"), SEND, STOP, REST, READ, SEND, REST, READ).seen
    assert stopped["status"] == "Loading was stopped."
    assert (stopped["message"], stopped["log"]) == ("Now?", [])
    assert messages(after, "assistant") == ["Yes"]


def test_the_keyboard_is_enough(chromium: str, url: str) -> None:
    typed = [write("Are"), press("Shift+Enter"), press("y"), press("?")]
    steps = [*CHAT_ONLY, *typed, READ, press("Enter"), REST, READ, press("Enter"), REST, READ]
    before, after, empty = visit(chromium, url, *steps).seen
    assert before["message"] == "Are\ny?"
    assert messages(after, "user") == ["Are\ny?"]
    assert (after["message"], after["focused"]) == ("", "message")
    assert empty["log"] == after["log"]  # nothing to send


def test_what_is_written_is_text_and_never_html(chromium: str, url: str) -> None:
    seen = visit(chromium, url, *CHAT_ONLY, *say("<img src=x onerror=alert(1)>;"), READ)
    (state,) = seen.seen
    assert messages(state, "user") == ["<img src=x onerror=alert(1)>;"]
    assert messages(state, "assistant") == ["<i>"]  # talkers.CHAT answers ";" with markup
    assert_local(seen, url)


def test_the_page_cannot_talk_to_anybody_else(chromium: str, url: str) -> None:
    elsewhere = [{"do": "reach", "url": address} for address in ("http://127.0.0.1:9/", "https://example.com/")]
    seen = visit(chromium, url, {"do": "reach", "url": url}, *elsewhere)
    assert seen.seen == [True, False, False]
    assert any("Content Security Policy" in error for error in seen.errors)


# --- Llama Guard ---------------------------------------------------------------------------------------------------


def test_the_guard_judges_before_the_chat_model_answers(chromium: str, url: str, exports: dict[str, Path]) -> None:
    steps = [*CHAT_ONLY, *GUARD, *say("Are you there?"), *say("Sing!"), *say("Well."), *say("Sure?"), READ]
    seen = visit(chromium, url, *steps)
    (state,) = seen.seen
    assert chips(state) == [["Safe"], ["Unsafe", "S2 Non-Violent Crimes"], ["Unclear"], ["Safe"]]
    kinds = [message["kind"] for message in state["log"]]
    assert kinds == ["user", "assistant", "user", "note", "user", "note", "user", "assistant"]
    assert state["log"][3]["text"] == "Not answered: Tiny-Guard calls this message unsafe."
    assert state["log"][5]["text"].startswith("Not answered: “no” is no verdict.")

    answered = [("user", "Are you there?"), ("assistant", "Yes"), ("user", "Sure?")]
    assert tokens_read(state)[-1] == prompt_length(exports, *answered)  # nothing of what was refused
    assert_local(seen, url)


def test_a_guard_works_alone(chromium: str, exports: dict[str, Path]) -> None:
    with serving(exports["guard"]) as url:
        before, after = visit(chromium, url, READ, *say("Really?"), *say("Fire!"), READ).seen
    assert before["summary"] == "Tiny-Guard · fp32, verdicts only"
    assert chips(after) == [["Safe"], ["Unsafe", "S2 Non-Violent Crimes"]]
    assert {message["kind"] for message in after["log"]} == {"user"}


# --- Errors --------------------------------------------------------------------------------------------------------


def test_a_chat_that_outgrows_the_model_says_so(chromium: str, url: str) -> None:
    long = "word " * talkers.SPEC.max_seq_len + "?"
    (state,) = visit(chromium, url, *CHAT_ONLY, *say(long), READ).seen
    (problem,) = messages(state, "problem")
    assert problem.startswith("The chat fills the model's context")
    assert "Start a new chat." in problem
    assert state["message"] == long.strip()  # not lost


def test_a_damaged_model_says_so_and_another_variant_still_works(chromium: str, exports: dict[str, Path]) -> None:
    model = exports["chat"] / "onnx" / "onnx" / "model_quantized.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    steps = [choose("Variant", "q8"), *say("Still?"), READ, choose("Variant", "fp32"), SEND, REST, READ]
    try:
        with serving(exports["chat"]) as url:
            damaged, mended = visit(chromium, url, *steps).seen
    finally:
        model.write_bytes(whole)
    (problem,) = messages(damaged, "problem")
    assert problem.startswith("The model's files are incomplete or damaged.")
    assert damaged["message"] == "Still?"
    assert messages(mended, "assistant") == ["Yes"]
