"""``report.html`` and ``report.json``: what they show, and that no text of a model becomes markup."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import expectations, pipeline, targets
from exporter.report import charts, details, page
from exporter.report.svg import Scale, element
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.capabilities import QUANTS as GGUF_QUANTS
from tests.fixtures.models import TinySpec, write_huggingface
from tests.javascript import transformers_js
from tests.pipeline.conftest import needs_llama_cpp, quickly
from tests.pipeline.harness import ROOT, export, manifest, sha256
from tests.pipeline.warm_llama import WarmLlama

PLOTS = ("relative error of the weights", "logit differences over position", "histogram of the KL")


@pytest.fixture(scope="module")
def checked(model: Path, warm_llama: WarmLlama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artifacts, compared in llama.cpp."""
    out = tmp_path_factory.mktemp("checked") / "out"
    with quickly(warm_llama):
        assert export(model, out, "int4", "q8_0", check=True).code == 0
    return out


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def plots(text: str) -> list[str]:
    return re.findall(r'<svg [^>]*aria-label="([^"]+)"', text)


@needs_llama_cpp
class TestContent:
    def test_every_artifact_has_its_plots_and_the_folder_has_two(self, checked: Path) -> None:
        found = plots((checked / page.FILE).read_text())
        assert found == ["sizes by component", "quality against size", *PLOTS, *PLOTS]

    def test_sizes_add_up_to_the_files(self, checked: Path) -> None:
        entries = details.load(checked)
        for artifact in manifest(checked)["artifacts"]:
            nbytes = artifact["files"][0]["bytes"]
            entry = details.of(artifact, entries)
            assert entry is not None
            weights = sum(tensor["bytes"] for tensor in entry["tensors"])
            shown = page._sizes(entry["tensors"], nbytes)
            assert tuple(shown) == page.COMPONENTS
            assert sum(shown.values()) == nbytes
            assert shown["other"] == nbytes - weights > 0
            assert min(shown.values()) > 0, "this model has an untied head"

    def test_the_numbers_are_those_of_the_proof(self, checked: Path) -> None:
        for artifact in manifest(checked)["artifacts"]:
            entry = details.of(artifact, details.load(checked))
            assert entry is not None
            for kind in ("faithfulness", "quality"):
                at, proof = entry["positions"][kind], artifact["parity"][kind]
                assert sum(at["kl"]) / len(at["kl"]) == pytest.approx(proof["mean_kl"], rel=1e-3, abs=1e-12)
                assert max(at["max_abs"]) == pytest.approx(proof["max_abs"], rel=1e-3)
            largest = max(tensor["largest"] for tensor in entry["tensors"])
            detail = next(check["detail"] for check in artifact["parity"]["checks"] if check["name"] == "rounding")
            assert f"{largest:.2g}" in detail

    def test_the_plan_is_told_in_groups_and_by_tensor(self, checked: Path) -> None:
        text = (checked / page.FILE).read_text()
        assert text.count("<code>layers.1.feed_forward.w2.weight</code>") == 2
        assert re.search(r"<td>attention</td><td><code>Q4_0</code></td><td class=\"n\">8</td>", text)

    def test_the_manifest_vouches_for_it(self, checked: Path, tmp_path: Path) -> None:
        listed = {f["path"]: f["sha256"] for f in manifest(checked)["shared_files"] if f["target"] == "report"}
        assert listed == {name: sha256(checked / name) for name in ("report.html", "report.json")}

    def test_it_is_the_same_again(self, checked: Path, model: Path, tmp_path: Path) -> None:
        assert export(model, tmp_path / "again", "q8_0", "int4", check=True).code == 0
        for name in (page.FILE, details.FILE):
            assert (tmp_path / "again" / name).read_bytes() == (checked / name).read_bytes()


class TestAcrossRuns:
    def test_what_was_made_before_stays_in_it(self, model: Path, tmp_path: Path) -> None:
        for quant in ("q8_0", "int4"):
            assert export(model, tmp_path / "two", quant).code == 0
        assert export(model, tmp_path / "one", "int4", "q8_0").code == 0
        for name in (page.FILE, details.FILE):
            assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()

    def test_without_the_details_of_an_earlier_run_it_says_so(self, model: Path, tmp_path: Path) -> None:
        assert export(model, tmp_path, "q8_0").code == 0
        (tmp_path / details.FILE).write_text("{")
        assert export(model, tmp_path, "int4").code == 0
        text = (tmp_path / page.FILE).read_text()
        assert text.count("the folder has no details") == 1
        assert "It was not checked in its runtime." in text

    def test_somebody_elses_report_is_not_overwritten(self, model: Path, tmp_path: Path) -> None:
        (tmp_path / page.FILE).write_text("mine")
        outcome = export(model, tmp_path, "int4")
        assert (outcome.code, outcome.error["error"]) == (2, f"{tmp_path}/report.html exists already")
        assert (tmp_path / page.FILE).read_text() == "mine"

    @needs_llama_cpp
    def test_a_failure_is_shown_with_its_reason(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seeded = pipeline.parity.Check("metadata", False, "rope_theta: expected 500000.0, found 10000.0")
        with monkeypatch.context() as patch:
            patch.setattr("exporter.parity.check_config", lambda *_: seeded)
            assert export(model, tmp_path, "int4", check=True).code == 3
        text = (tmp_path / page.FILE).read_text()
        box = text.split('class="failed-box"', 1)[1].split("</div>", 1)[0]
        assert "gguf int4" in box
        assert ".rejected/tiny-INT4.gguf" in box
        assert expectations.expected("metadata", "gguf", "int4") in box
        assert seeded.detail in box
        assert export(model, tmp_path, "int4", check=True).code == 0
        assert 'failed-box"' not in (tmp_path / page.FILE).read_text()


HOSTILE = "</style></svg><script>alert(1)</script><img src=\"http://e.example/x\" onerror='x'>&amp;"


def hostile(value: Any, kept: tuple[str, ...] = ("sha256", "verdict")) -> Any:
    """A document with something nasty in every text."""
    if isinstance(value, dict):
        return {key: found if key in kept else hostile(found, kept) for key, found in value.items()}
    if isinstance(value, list):
        return [hostile(found, kept) for found in value]
    return value + HOSTILE if isinstance(value, str) else value


@needs_llama_cpp
class TestSafety:
    def test_nothing_is_asked_of_any_server(self, checked: Path) -> None:
        text = (checked / page.FILE).read_text()
        found = Elements(text)
        assert not found.tags & {"script", "link", "img", "iframe", "object", "base", "form"}
        assert {value[:1] for name, value in found.attributes if name in ("href", "src", "action") and value} == {"#"}
        assert not re.search(r"url\(|@import|://", text)
        assert "default-src 'none'" in text

    def test_no_text_of_a_model_becomes_markup(self, checked: Path) -> None:
        document, entries = manifest(checked), details.load(checked)
        honest = Elements(page.render(document, entries))
        # The names of tensors decide where they are drawn, and stay; their types do not.
        nasty = [hostile(entry, ("sha256", "name")) for entry in entries]
        text = page.render(hostile(document), nasty)
        assert text.count("alert(1)") > 50
        found = Elements(text)
        assert found.tags == honest.tags
        assert {name for name, _ in found.attributes} == {name for name, _ in honest.attributes}


def test_every_check_says_what_it_expects() -> None:
    sources = [path.read_text() for path in (ROOT / "exporter").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r'Check\(\s*"([a-z ]+)"', text)}
    assert names == set(expectations._EXPECTED)
    assert f"{GGUF_QUANTS['q8_0'].max_kl:g}" in expectations.expected("logits", "gguf", "q8_0")
    assert expectations.expected("logits", "gguf", "no such row") == ""


@pytest.mark.parametrize("target", targets.REGISTRY)
@pytest.mark.parametrize("tied", [False, True])
def test_plans_tell_all_their_weights(target: str, tied: bool, tmp_path: Path) -> None:
    spec = TinySpec(dim=128, ffn_dim=256, head_dim=32, n_layers=1, tied=tied)
    source = open_source(str(write_huggingface(tmp_path / "tiny", spec)), SourceOptions())
    chosen = targets.get(target)
    for quant in ("f32", "int4"):
        plan = chosen.plan(source.subject(), quant, Options())
        assert {tensor.name for tensor in plan.tensors} == plan.expected.keys()
        # ExecuTorch counts the epsilon of the norms, four bytes, with the weights.
        assert 0 <= plan.weight_bytes - sum(tensor.nbytes for tensor in plan.tensors) <= 4
        assert {tensor.shape for tensor in plan.tensors} == {tuple(t.dims) for t in plan.expected.values()}


class TestDrawing:
    @settings(max_examples=30)
    @given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(4, 9))
    def test_ticks_are_few_and_inside(self, low: float, span: float, most: int) -> None:
        scale = Scale(low, low + span, 0, 100)
        ticks = scale.ticks(most)
        assert 1 <= len(ticks) <= most + 1
        assert all(-0.01 <= scale(tick) <= 100.01 for tick in ticks)

    @settings(max_examples=30)
    @given(st.text())
    def test_text_and_attributes_are_escaped(self, text: str) -> None:
        found = Elements(element("text", text, class_=text, aria_label="x"))
        assert found.tags == {"text"}
        assert [name for name, _ in found.attributes] == ["class", "aria-label"]

    def test_names_of_points_do_not_hide_each_other(self) -> None:
        near = [charts.Variant("gguf", f"q{i}", 100 + i / 100, 0.1, True) for i in range(4)]
        drawn = charts.quality_against_size(near)
        places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label"[^>]*>q\d', drawn)
        assert len({*places}) == len(near)

    @pytest.mark.parametrize("kl", [0.0, -1e-17, 1e-30])
    def test_a_divergence_of_nothing_can_be_drawn(self, kl: float) -> None:
        assert "<circle" in charts.quality_against_size([charts.Variant("gguf", "f32", 1.0, kl, True)])
        assert "<rect" in charts.histogram({"a": [kl, None, kl]})
        assert "<polyline" in charts.positions({"a": [abs(kl), None]})


@pytest.mark.slow
@needs_llama_cpp
def test_a_browser_draws_it_from_a_file_and_asks_for_nothing_else(checked: Path) -> None:
    url = (checked / page.FILE).as_uri()
    done = subprocess.run(
        ["node", str(ROOT / "tests/javascript/open_report.mjs")],
        input=json.dumps({"url": url, "views": [{"width": 1060}, {"scheme": "dark", "width": 400}]}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CHROMIUM": transformers_js.chromium()},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for seen in json.loads(done.stdout):
        assert (seen["requests"], seen["errors"], seen["scripts"]) == ([url], [], 0)
        assert "gguf int4" in seen["text"]
        assert not seen["wide"], "the page is as narrow as its window"
        assert [box["label"] for box in seen["boxes"]] == ["sizes by component", "quality against size", *PLOTS, *PLOTS]
        for box in seen["boxes"]:
            assert box["shapes"] > 1
            assert box["outside"] == [], "everything is drawn inside its frame"
