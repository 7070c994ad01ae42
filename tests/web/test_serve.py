"""The server: which models it finds, what it gives out, and what it never does."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.javascript.transformers_js import serving
from tests.web.support import PAGE

DATA = "onnx/model_q4.onnx_data"
FILES = {"onnx/model_q4.onnx": 10, DATA: 1000, f"{DATA}_1": 90, "onnx/model.onnx": 7}


def write_repository(folder: Path, files: dict[str, int] | None = None) -> Path:
    """What an export looks like to the server: the right names, no real contents."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name, size in (FILES if files is None else files).items():
        (folder / name).write_bytes(bytes(i % 251 for i in range(size)))
    return folder


def write_export(folder: Path, name: object = "Tiny Llama") -> Path:
    write_repository(folder / "onnx")
    (folder / "manifest.json").write_text(json.dumps({"model": {"name": name}}))
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_export(tmp_path_factory.mktemp("served") / "out")
    (folder.parent / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def url(export: Path) -> Iterator[str]:
    with serving(export) as address:
        yield address


def ask(url: str, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """A request whose path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def models(url: str) -> Any:
    return json.loads(ask(url, "/models.json")[1])


# --- Models --------------------------------------------------------------------------------------------------------


def test_an_export_is_named_by_its_manifest(url: str) -> None:
    (model,) = models(url)
    assert (model["id"], model["name"]) == ("Tiny-Llama", "Tiny Llama")


def test_variants_are_counted_with_their_external_data(url: str) -> None:
    (model,) = models(url)
    assert model["variants"] == [{"dtype": "q4", "bytes": 1100}, {"dtype": "fp32", "bytes": 7}]


def test_every_file_name_of_transformers_js_is_a_variant(tmp_path: Path) -> None:
    suffixes = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "int8": "_int8", "q4": "_q4", "q4f16": "_q4f16"}
    folder = write_repository(tmp_path / "all", {f"onnx/model{suffix}.onnx": 1 for suffix in suffixes.values()})
    with serving(folder) as url:
        assert {variant["dtype"] for variant in models(url)[0]["variants"]} == set(suffixes)


def test_the_repository_itself_may_be_named(export: Path, tmp_path: Path) -> None:
    alone = write_repository(tmp_path / "My Model")
    with serving(export / "onnx", alone) as url:
        assert [model["name"] for model in models(url)] == ["Tiny Llama", "My Model"]


def test_models_of_the_same_name_get_ids_of_their_own(tmp_path: Path) -> None:
    with serving(write_export(tmp_path / "a"), write_export(tmp_path / "b")) as url:
        assert [model["id"] for model in models(url)] == ["Tiny-Llama", "Tiny-Llama-2"]


@pytest.mark.parametrize(
    ("name", "identity"),
    [("a/../b", "a-b"), ("../..", "model"), ("x--y", "x-y"), ("Llama 3.2 1B", "Llama-3.2-1B"), ("é", "model")],
)
def test_an_id_is_one_that_transformers_js_takes(name: str, identity: str, tmp_path: Path) -> None:
    with serving(write_export(tmp_path / "out", name)) as url:
        assert models(url)[0]["id"] == identity
        assert ask(url, f"/models/{identity}/config.json")[1] == b"{}"


@pytest.mark.parametrize("manifest", ["{", "[]", '{"model": {"name": 7}}', "{}"])
def test_a_manifest_without_a_name_leaves_the_folders(manifest: str, tmp_path: Path) -> None:
    folder = write_export(tmp_path / "my-export")
    (folder / "manifest.json").write_text(manifest)
    with serving(folder) as url:
        assert models(url)[0]["name"] == "my-export"


def test_a_variant_exported_later_is_found(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "out")
    with serving(folder) as url:
        (folder / "onnx/onnx/model_q4f16.onnx").write_bytes(b"new")
        assert {"dtype": "q4f16", "bytes": 3} in models(url)[0]["variants"]


# --- Files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html"),
        ("/app.mjs", "text/javascript"),
        ("/vendor/@huggingface/transformers/dist/transformers.min.js", "text/javascript"),
        ("/vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm", "application/wasm"),
        ("/models/Tiny-Llama/config.json", "application/json"),
        (f"/models/Tiny-Llama/{DATA}", "application/octet-stream"),
    ],
)
def test_files_have_their_types(url: str, path: str, content_type: str) -> None:
    response, body = ask(url, path)
    assert response.status == 200
    assert response.headers["Content-Type"].split(";")[0] == content_type
    assert int(response.headers["Content-Length"]) == len(body)


def test_every_module_of_the_page_is_served(url: str) -> None:
    for path in PAGE.glob("*.mjs"):
        served_here = ask(url, f"/{path.name}")[0].status == 200
        assert served_here == (path.name not in ("serve.mjs", "catalogue.mjs")), path.name


@pytest.mark.parametrize("path", ["/", "/app.mjs", "/models.json", "/models/Tiny-Llama/config.json", "/nothing"])
def test_every_answer_isolates_the_page(url: str, path: str) -> None:
    headers = ask(url, path)[0].headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", (0, 0)),
        ("bytes=10-19", (10, 19)),
        ("bytes=990-", (990, 999)),
        ("bytes=-10", (990, 999)),
        ("bytes=0-5000", (0, 999)),
        ("bytes=-5000", (0, 999)),
    ],
)
def test_a_range_is_answered_with_its_bytes(url: str, asked: str, part: tuple[int, int]) -> None:
    path = f"/models/Tiny-Llama/{DATA}"
    whole = ask(url, path)[1]
    response, body = ask(url, path, Range=asked)
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {part[0]}-{part[1]}/1000"
    assert body == whole[part[0] : part[1] + 1]


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=-0"])
def test_a_range_beyond_the_file_is_refused(url: str, asked: str) -> None:
    response, _ = ask(url, f"/models/Tiny-Llama/{DATA}", Range=asked)
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */1000")


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "bytes=0-1,5-6", "lines=1-2"])
def test_a_range_that_means_nothing_is_ignored(url: str, asked: str) -> None:
    response, body = ask(url, f"/models/Tiny-Llama/{DATA}", Range=asked)
    assert (response.status, len(body)) == (200, 1000)


def test_head_sends_no_body(url: str) -> None:
    response, body = ask(url, f"/models/Tiny-Llama/{DATA}", "HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, "1000", b"")


# --- What it never does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/models/Tiny-Llama/../../secret.txt",
        "/models/Tiny-Llama/../manifest.json",
        "/models/Tiny-Llama/%2e%2e/%2e%2e/secret.txt",
        "/models/Tiny-Llama/..%2f..%2fsecret.txt",
        "/models/Tiny-Llama/onnx/../../../secret.txt",
        "/models/../serve.mjs",
        "/models/nobody/config.json",
        "/vendor/../package.json",
        "/vendor/..%2fpackage.json",
        "/vendor//etc/passwd",
        "/../../../../etc/passwd",
        "/..%5c..%5csecret.txt",
        "/package.json",
        "/serve.mjs",
        "/node_modules/playwright-core/package.json",
        "//etc/passwd",
        "/models/Tiny-Llama/onnx",
        "/models/__proto__/config.json",
    ],
)
def test_nothing_outside_is_served(url: str, path: str) -> None:
    assert ask(url, path)[0].status == 404


@pytest.mark.parametrize("path", ["/%", "/%ff", "/models/Tiny-Llama/config.json%00.txt"])
def test_a_malformed_path_is_refused(url: str, path: str) -> None:
    assert ask(url, path)[0].status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_reads(url: str, method: str) -> None:
    response, _ = ask(url, "/", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_it_listens_to_this_machine_only(url: str) -> None:
    assert urlsplit(url).hostname == "127.0.0.1"


# --- The command line ----------------------------------------------------------------------------------------------


def refusal(*arguments: object) -> str:
    """Standard error of a command that is refused."""
    command = ["node", str(PAGE / "serve.mjs"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "    at " not in done.stderr  # no stack
    return done.stderr


def test_a_folder_without_a_model_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    text = refusal(tmp_path)
    assert f"{tmp_path} holds no exported model" in text
    assert "found: notes.txt" in text
    assert f"hint: python cli.py export MODEL --target onnx --quant q4 --out {tmp_path}" in text


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "found: nothing" in refusal(tmp_path / "nowhere")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    assert "found: a file" in refusal(tmp_path / "model.gguf")


def test_no_folder_is_refused() -> None:
    assert "usage: node serve.mjs [--port N] FOLDER..." in refusal()


@pytest.mark.parametrize("port", ["x", "-1", "65536", "80.5", ""])
def test_what_is_no_port_is_refused(port: str, export: Path) -> None:
    assert "error: " in refusal("--port", port, export)


def test_a_port_in_use_is_refused_with_a_hint(url: str, export: Path) -> None:
    text = refusal("--port", urlsplit(url).port, export)
    assert "EADDRINUSE" in text
    assert "--port 0" in text


def test_an_unknown_option_is_refused(export: Path) -> None:
    assert "usage:" in refusal("--listen", "0.0.0.0", export)
