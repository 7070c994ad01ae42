"""A head with some tokens in Node.js and in a browser: Transformers.js gets a logit for every token, most of them minus
infinity."""

from __future__ import annotations

import numpy as np
import pytest

from exporter import parity
from exporter.divergence import compare
from exporter.ir import interpreter
from exporter.prune_guard.vocabulary import narrow_head
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.onnx.capabilities import QUANTS
from exporter.targets.onnx.target import ONNX
from tests.fixtures.models import write_huggingface
from tests.ir.graphs import token_ids
from tests.javascript.conftest import TINY, Repository, exported
from tests.javascript.transformers_js import Answer, in_browser, in_node, serving
from tests.prune_guard.support import saved

pytestmark = pytest.mark.slow

KEPT = (3, 4, 5, 100, 300, 575)
PROMPT = token_ids(TINY.vocab_size, 21)
DTYPES = {"fp32": "f32", "q4": "int4", "q8": "q8"}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("narrow")
    source = open_source(str(write_huggingface(root / "source", TINY)), SourceOptions())
    folder = saved(root / "pruned", source, narrow_head(source.graph(), KEPT))
    return exported(folder, root / "out", *DTYPES.values())


def check(answer: Answer, quant: str, narrow: Repository) -> None:
    # JSON knows no infinity: what is minus infinity arrives as null.
    found = np.array([[-np.inf if x is None else x for x in answer.logits]], np.float32)
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == list(KEPT)
    model = ONNX.plan(narrow.source.subject(), quant, Options()).model
    expected = interpreter.logits(model, PROMPT)[-1:]
    assert parity.check_logits(compare(expected, found, PROMPT[-1:], KEPT), QUANTS[quant]).passed
    assert set(answer.generated) <= set(KEPT)


def test_in_node(narrow: Repository) -> None:
    found = in_node(narrow.folder, dtypes=[*DTYPES], ids=PROMPT, n=8, texts=[])
    for dtype, answer in found.answers.items():
        check(answer, DTYPES[dtype], narrow)


@pytest.mark.parametrize("device", ["wasm", "webgpu"])
def test_in_a_browser(narrow: Repository, device: str) -> None:
    with serving(narrow.out) as url:
        found = in_browser(url, device=device, dtypes=[*DTYPES], ids=PROMPT, n=8, texts=[])
    for dtype, answer in found.answers.items():
        check(answer, DTYPES[dtype], narrow)
