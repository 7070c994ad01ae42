"""A small guard that really classifies, from random weights to verdicts in every runtime.

    python -m benchmarks.guard_training

A Llama of four layers learns the conversations of ``benchmarks/guard_examples.py``; the recipe for Llama Guard 3 1B
prunes it, distils it from itself on the grids of the phone's file, and ships it; ``guard-eval`` counts. These are
scores of a toy on a toy's data, and not Llama Guard's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import ROOT, guard_examples, table
from benchmarks.measure import machine
from exporter.checkpoint.base import ModelInfo
from exporter.config import ModelConfig
from exporter.ir.build import build
from exporter.names import expected_shapes
from exporter.prune_guard import folder
from exporter.prune_guard.distill import unpruned
from exporter.prune_guard.guard_data import passage
from exporter.prune_guard.lessons import lessons
from exporter.prune_guard.parallel import World
from exporter.prune_guard.sequences import read_calibration
from exporter.prune_guard.student import Student, put_weights, weights_of
from exporter.prune_guard.training import Settings, Training
from exporter.tensors import RowTensor, from_array
from exporter.tokenizer import Tokenizer, load_tokenizer_folder
from scripts.fetch_models import fetch

CONFIG = ModelConfig(
    dim=256, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, vocab_size=128256, norm_eps=1e-5,
    rope_theta=10000.0, max_seq_len=1024, rope_scaling=None, tied_embeddings=True,
)  # fmt: skip
"""Widths divide into the recipe's groups of 256."""
KEPT = ("--layers", "3", "--ffn", "256")
N_TEST = 100
SEQ_LEN = 384


def random_weights(config: ModelConfig) -> dict[str, RowTensor]:
    """Matrices of variance ``1 / width``, norms of ones; the embedding smaller, as it is a head as well."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in expected_shapes(config).items():
        scale = 0.02 if name == "tok_embeddings.weight" else shape[-1] ** -0.5
        values = np.ones(shape) if len(shape) == 1 else scale * rng.standard_normal(shape, np.float32)
        found[name] = from_array(name, values.astype(np.float32))
    return found


def train(data: Path, tokenizer: Tokenizer, settings: Settings, out: Path) -> None:
    """The guard before it is pruned, as a folder."""
    read = read_calibration(
        data, tokenizer, n_sequences=10**6, length=SEQ_LEN, render=lambda record: passage(record, tokenizer)
    )
    model = build(CONFIG, random_weights(CONFIG), name="tiny-guard")
    run = Training(Student(model, keeps_activations=True), lessons(read.used, CONFIG), None, settings, World())
    for _ in range(settings.steps):
        done = run.step()
        if run.step_number % 20 == 0:
            print(f"step {run.step_number}: cross-entropy {done.losses.cross_entropy:.3f}", file=sys.stderr, flush=True)
    put_weights(model, weights_of(run.state()["model"]))
    memory = {"exporter": "", **unpruned({"model": "random weights"})}
    folder.save(out, model, tokenizer, ModelInfo("tiny-guard"), memory, lambda n, what: None, {})


def exporter(*arguments: object) -> str:
    """A command of the exporter's; what it prints."""
    command = [sys.executable, "cli.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def judge(name: str, model: Path, test: Path, *options: object) -> None:
    """Export a model and let each artifact judge the test conversations."""
    files = model.parent / f"{model.name}-files"
    exporter("export", model, "--out", files, "--no-verify", "--jobs", 1, *options)
    found = json.loads(exporter("guard-eval", files, test, "--format", "json"))["artifacts"]
    for artifact, report in found.items():
        at = report["chosen"]
        size = sum(path.stat().st_size for path in (files / artifact.split()[0]).rglob("*") if path.suffix != ".json")
        recall = report["category_recall"]
        named = "-" if recall is None else f"{recall:.2f}"
        table.row(name, artifact, f"{size / 1e6:.1f}", f"{at['f1']:.3f}", f"{at['fpr']:.3f}", named)
    shutil.rmtree(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160, help="of training from random weights")
    parser.add_argument("--recovery", type=int, default=60, help="steps of distillation")
    parser.add_argument("--out", type=Path, help="where folders go; default: a temporary folder")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(dir=arguments.out))
    data, test, teacher = scratch / "training.jsonl", scratch / "test.jsonl", scratch / "tiny-guard"
    n_training = guard_examples.write(data, test, N_TEST)
    print(f"{machine()}; python -m benchmarks.guard_training {' '.join(sys.argv[1:])}\n")
    tokenizer = load_tokenizer_folder(fetch("llama3-tokenizer").parent).padded(CONFIG.vocab_size)
    settings = Settings(steps=arguments.steps, batch=8, micro_batch=8, learning_rate=2e-3, weight_decay=0.0)
    begin = time.process_time()
    train(data, tokenizer, settings, teacher)
    print(f"trained on {n_training * 4 // 5} conversations in {time.process_time() - begin:.0f} CPU s\n")
    recipe = (*KEPT, "--data", data, "--seq-len", SEQ_LEN)
    exporter("prune-guard", teacher, *recipe, "--sequences", 32, "--out", scratch / "pruned")
    recovery = (
        "--teacher", teacher, "--sequences", 600, "--steps", arguments.recovery, "--batch", 8, "--micro-batch", 8,
        "--learning-rate", 1e-3, "--keep-activations",
    )  # fmt: skip
    print("recovering", file=sys.stderr)
    exporter("prune-guard", teacher, *recipe, *recovery, "--out", scratch / "recovered")
    everywhere = ("--target", "executorch", "--target", "onnx", "--target", "gguf")
    table.head("guard", "artifact", "MB", "F1", "FPR", "hazards named")
    judge("before pruning", teacher, test, "--target", "gguf", "--quant", "f32")
    judge("pruned", scratch / "pruned", test, "--target", "executorch")
    judge("pruned and recovered", scratch / "recovered", test, *everywhere)


if __name__ == "__main__":
    main()
