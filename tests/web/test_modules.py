"""The page's other modules that need no browser: prompts, variants, engines, errors in plain words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.web.support import PAGE, evaluate

JINJA = PAGE / "node_modules" / "@huggingface" / "jinja" / "dist" / "index.js"

STRINGS = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text | trim }}{% endfor %}{% endfor %}"
)
"""The loop of Llama Guard 3 1B's template."""

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": " What now? "},
]

ALL = [{"dtype": dtype, "bytes": 1} for dtype in ("q4f16", "q4", "int8", "q8", "fp16", "fp32")]
"""Every variant the exporter can write."""


# --- Prompts -------------------------------------------------------------------------------------------------------


def prompt(template: str, messages: list[dict[str, str]]) -> Any:
    """What the page would send, or the message of the error it throws."""
    expression = f"""(async () => {{
        const {{ Template }} = await import({json.dumps(JINJA.as_uri())});
        const template = new Template(args[0]);
        try {{ return renderChat((messages) => template.render({{ messages }}), args[1]); }}
        catch (error) {{ return {{ threw: error.message }}; }}
    }})()"""
    return evaluate("prompt.mjs", expression, template, messages)


@pytest.mark.parametrize("template", [STRINGS, PARTS])
def test_contents_reach_templates_that_want_text_or_parts(template: str) -> None:
    assert prompt(template, CHAT) == "[user]Hi[assistant]Hello[user]What now?"


def test_a_template_that_leaves_the_message_out_is_an_error() -> None:
    assert "leaves the message out" in prompt("[{{ messages | length }}]", CHAT)["threw"]


def test_what_the_template_itself_refuses_is_told() -> None:
    assert "roles must alternate" in prompt("{{ raise_exception('roles must alternate') }}", CHAT)["threw"]


# --- Variants ------------------------------------------------------------------------------------------------------


def dtypes(device: str, gpu: dict[str, object] | None) -> list[str]:
    found: list[str] = evaluate("variants.mjs", "offered(...args).map(({ dtype }) => dtype)", ALL, device, gpu)
    return found


def test_wasm_runs_every_variant() -> None:
    assert dtypes("wasm", None) == ["q4f16", "q4", "int8", "q8", "fp16", "fp32"]


def test_a_gpu_runs_half_precision_only_with_shader_f16() -> None:
    assert dtypes("webgpu", {"float16": True}) == ["q4f16", "q4", "int8", "q8", "fp16", "fp32"]
    assert dtypes("webgpu", {"float16": False}) == ["q4", "int8", "q8", "fp32"]


SIZES = {"q4f16": 0.9, "q4": 1, "int8": 1.5, "q8": 1.5, "fp16": 2.7, "fp32": 5.4}
"""Of the variants of SmolLM2-135M, in units of q4's."""


@pytest.mark.parametrize(
    ("megabytes", "device", "first"),
    [(100, "wasm", "q8"), (100, "webgpu", "q4f16"), (1200, "wasm", "q4"), (2000, "wasm", "q4f16")],
)
def test_the_fastest_light_variant_comes_first_or_else_the_smallest(megabytes: int, device: str, first: str) -> None:
    variants = [{"dtype": dtype, "bytes": size * megabytes * 1e6} for dtype, size in SIZES.items()]
    assert evaluate("variants.mjs", "preferred(...args)", variants, device)["dtype"] == first


def test_without_variants_none_comes_first() -> None:
    assert evaluate("variants.mjs", "preferred([], 'wasm')") is None


def test_a_variant_is_labelled_with_its_size() -> None:
    expression = "args.map(label)"
    sizes = [{"dtype": "q4", "bytes": 100_624_267}, {"dtype": "fp32", "bytes": 700_000}]
    assert evaluate("variants.mjs", expression, *sizes) == ["q4 · 101 MB · 4-bit", "fp32 · 0.7 MB · float32"]


@pytest.mark.parametrize(
    "gpu",
    ["null", "{ requestAdapter: async () => null }", "{ requestAdapter: () => { throw Error('no'); } }"],
)
def test_without_an_adapter_there_is_no_gpu(gpu: str) -> None:
    assert evaluate("variants.mjs", f"detectGpu({gpu})") is None


# --- Engines -------------------------------------------------------------------------------------------------------


def engine(answers: list[dict[str, object]], what: str) -> Any:
    """Value of an expression with an ``engine`` whose worker answers every job with these messages."""
    expression = f"""(async () => {{
        let ended = false;
        globalThis.Worker = class {{
            postMessage() {{ for (const data of args[0]) this.onmessage({{ data }}); }}
            terminate() {{ ended = true; }}
        }};
        const engine = new Engine();
        const caught = (error) => error instanceof Closed ? "closed" : error.message;
        return {what};
    }})()"""
    return evaluate("engine.mjs", expression, answers)


def test_an_engine_tells_pieces_and_then_the_result() -> None:
    pieces = [{"type": "piece", "piece": "a"}, {"type": "piece", "piece": "b"}]
    what = "(await engine.generate([], 9, (piece) => heard.push(piece)), heard)"
    told = engine([*pieces, {"type": "done", "result": {}}], f"await (async (heard) => {what})([])")
    assert told == ["a", "b"]


@pytest.mark.parametrize("broken", [False, True])
def test_an_engine_goes_on_after_an_error_that_broke_nothing(broken: bool) -> None:
    failed = {"type": "failed", "message": "no", "broken": broken}
    said = engine([failed], "[await engine.generate([], 9).catch(caught), engine.broken, ended]")
    assert said == ["no", broken, broken]


def test_closing_an_engine_ends_its_job() -> None:
    closed = "(async (job) => { engine.close(); return [await job, ended]; })(engine.load({}).catch(caught))"
    assert engine([], f"await {closed}") == ["closed", True]


# --- Errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "what", "todo"),
    [
        ("context full: 4100 of 4096 tokens", "(4100 of 4096 tokens)", "new chat"),
        ("tokenizer.chat_template is not set and no template argument was passed", "no chat template", "Instruct"),
        ('file was not found locally at "/models/a/config.json".', "/models/a/config.json", "Export"),
        ("Failed to load model because protobuf parsing failed.", "damaged", "--force"),
        ("std::bad_alloc", "memory", "smaller"),
        ("18446744", "memory", "smaller"),
        ("Failed to get GPU adapter.", "GPU", "WebAssembly"),
        ("no available backend found. ERR: [wasm] TypeError", "could not start", "npm ci"),
        ("what nobody thought of", "unforeseen", "Reload"),
    ],
)
def test_an_error_says_what_happened_and_what_to_do(message: str, what: str, todo: str) -> None:
    words = evaluate("errors.mjs", "explain(new Error(args[0]))", message)
    assert what in words["what"]
    assert todo in words["todo"]
    assert words["detail"] == message


@pytest.mark.parametrize("thrown", ["undefined", "null", "42", "'text'", "{}"])
def test_whatever_is_thrown_is_explained(thrown: str) -> None:
    assert set(evaluate("errors.mjs", f"explain({thrown})")) == {"what", "todo", "detail"}


def test_a_server_that_is_gone_explains_every_other_error() -> None:
    gone = "async () => { throw new TypeError('Failed to fetch'); }"
    there = "async () => ({})"
    error = "new Error('file was not found locally at \"/models/a/config.json\".')"
    assert "server" in evaluate("errors.mjs", f"explainOnline({error}, {gone})")["what"]
    assert "/models/a/config.json" in evaluate("errors.mjs", f"explainOnline({error}, {there})")["what"]
