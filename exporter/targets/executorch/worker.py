"""One request to ExecuTorch's Python bindings, in a process of its own: JSON on stdin, JSON on stdout.

The bindings come first: the libraries of kernels register themselves with them. These are loaded directly, because
executorch's Python modules around them import half of torch's compiler, eight seconds of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.targets.executorch import wheel

Request = dict[str, Any]

LIBRARIES = (
    Path("kernels/quantized/libquantized_ops_aot_lib.*"),
    Path("extension/llm/custom_ops/libcustom_ops_aot_lib.*"),
)
"""What the LLM runner of the apps has beside the portable kernels: 8-bit embeddings, cache and attention."""


def open_program(path: str, data: str | None = None) -> Any:
    """The program, with the LLM runner's kernels beside the portable ones; ``data`` is the file of its weights."""
    import torch
    from executorch.extension.pybindings import _portable_lib as bindings

    for library in LIBRARIES:
        torch.ops.load_library(next(wheel.path(library.parent).glob(library.name)))  # type: ignore[no-untyped-call]
    return bindings._load_for_executorch(path, data)


def call(program: Any, method: str) -> Any:
    """The result of a method that takes nothing: a number, or a list of several."""
    values = program.run_method(method, ())
    return values[0] if len(values) == 1 else list(values)


def forward(program: Any, ids: Sequence[int], position: int) -> npt.NDArray[np.float32]:
    """Logits of the last token, ``[vocab_size]``."""
    import torch

    (scores,) = program.run_method("forward", (torch.tensor([list(ids)]), torch.tensor([position])))
    found: npt.NDArray[np.float32] = scores.reshape(-1).numpy().copy()
    return found


def prefill(program: Any, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Logits of a prompt's last token. It enters as the runner lets it, in the longest pieces that a call takes."""
    size = call(program, "get_max_seq_len")
    return [forward(program, ids[at : at + size], at) for at in range(0, len(ids), size)][-1]


def logits(request: Request) -> None:
    """See :meth:`exporter.targets.executorch.runtime.ExecuTorch.logits`; saves the array as ``request["out"]``."""
    program = open_program(request["model"], request["data"])
    ids, n_prompt = request["ids"], request["prefill"]
    rows = [forward(program, ids[i : i + 1], i) for i in range(n_prompt - 1)]
    rows.append(prefill(program, ids[:n_prompt]))
    rows += [forward(program, ids[i : i + 1], i) for i in range(n_prompt, len(ids))]
    np.save(request["out"], np.stack(rows))


def greedy(request: Request) -> list[int]:
    """See :meth:`exporter.targets.executorch.runtime.ExecuTorch.greedy`."""
    program, ids, found = open_program(request["model"], request["data"]), request["ids"], list[int]()
    scores = prefill(program, ids)
    while len(found) < request["n_predict"] and (token := int(scores.argmax())) not in request["stops"]:
        found.append(token)
        scores = forward(program, [token], len(ids) + len(found) - 1)
    return found


def constants(request: Request) -> dict[str, Any]:
    """Name -> value of the constant methods."""
    program = open_program(request["model"], request["data"])
    return {name: call(program, name) for name in program.method_names() if name != "forward"}


def generate(request: Request) -> str:
    """What the C++ runner says to a prompt, greedily; without the prompt."""
    open_program(request["model"], request["data"])  # for its kernels
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    said: list[str] = []
    config = GenerationConfig(echo=False, max_new_tokens=request["max_new_tokens"], temperature=0.0, num_bos=0)
    runner = TextLLMRunner(request["model"], request["tokenizer"], request["data"])
    runner.generate(request["prompt"], config, said.append)
    return "".join(said)


REQUESTS: dict[str, Callable[[Request], Any]] = {f.__name__: f for f in (logits, greedy, constants, generate)}


def main() -> None:
    stdout = os.dup(1)
    os.dup2(2, 1)  # Nothing that native code prints may end up in the answer.
    request = json.load(sys.stdin)
    try:
        text = json.dumps(REQUESTS[request["request"]](request))
    except RuntimeError as error:  # ExecuTorch's own; its log, just above, says more than a traceback
        sys.exit(str(error))
    with os.fdopen(stdout, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
