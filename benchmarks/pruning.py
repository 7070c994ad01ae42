"""What pruning costs and what brings it back, on the demo model; and how large the recipe's files are.

    python -m benchmarks.pruning depth --text FILE      # FILE: any English text of 500 kB or more
    python -m benchmarks.pruning recover --text FILE    # a quarter of an hour or more of one core
    python -m benchmarks.pruning sizes                  # Llama Guard 3 1B's shape with random weights

Blocks are chosen, and students trained, on sequences from the beginning of the text; perplexities are of sequences from
its end.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import CACHE, ROOT, table
from benchmarks.measure import Usage, machine, measure
from benchmarks.shapes import make_checkpoint
from exporter.prune_guard import methods
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.importance import perplexity
from exporter.source import Source, SourceOptions, open_source
from scripts.fetch_models import fetch

N_HELD_OUT = 8
PUBLISHED_BYTES = 458_464_800
"""Of Llama Guard 3-1B-INT4's .pte."""


def _silent(n_blocks: int) -> None:
    pass


def _exporter(*arguments: object) -> Usage:
    """A command of the exporter's, in a process of its own."""
    return measure([sys.executable, "cli.py", *map(str, arguments)], cwd=ROOT)


def _sequences(text: Path, source: Source, length: int) -> list[list[int]]:
    ids = source.tokenizer.encode(text.read_text(encoding="utf-8"))
    return [ids[i * length : (i + 1) * length] for i in range(len(ids) // length)]


def depth(arguments: argparse.Namespace) -> None:
    """A quarter of the depth, by what decides which blocks leave; nothing is recovered."""
    source = open_source(str(fetch("smollm2")), SourceOptions())
    sequences = _sequences(arguments.text, source, arguments.seq_len)
    chosen_on, held_out = sequences[: arguments.sequences], sequences[-N_HELD_OUT:]
    n_layers = source.config.n_layers

    def by(name: str) -> Callable[[], Sequence[int]]:
        return lambda: methods.get(name).blocks(source.graph(), chosen_on, arguments.drop, _silent).dropped

    ways: dict[str, Callable[[], Sequence[int]]] = {
        "nothing dropped": tuple,
        "the last blocks": lambda: tuple(range(n_layers - arguments.drop, n_layers)),
        **{name: by(name) for name in methods.METHODS},
    }
    table.head("blocks chosen by", "dropped", "perplexity")
    for name, choose in ways.items():
        dropped = sorted(choose())
        model = drop_blocks(source.graph(), dropped) if dropped else source.graph()
        table.row(name, " ".join(map(str, dropped)) or "-", f"{perplexity(model, held_out, _silent):.1f}")


def recover(arguments: argparse.Namespace) -> None:
    """The same quarter, and a student of what is left."""
    model = fetch("smollm2")
    source = open_source(str(model), SourceOptions())
    held_out = _sequences(arguments.text, source, arguments.seq_len)[-N_HELD_OUT:]
    scratch = Path(tempfile.mkdtemp(dir=arguments.out))
    data = ("--data", arguments.text, "--seq-len", arguments.seq_len)
    pruning = ("--layers", source.config.n_layers - arguments.drop, "--importance", arguments.importance)
    training = (
        "--sequences", arguments.lessons, "--steps", arguments.steps, "--batch", 4, "--micro-batch", 4,
        "--learning-rate", arguments.learning_rate, "--keep-activations", "--save-every", 20,
    )  # fmt: skip
    pruned, trained = scratch / "pruned", scratch / "trained"
    print(f"{machine()}; python -m benchmarks.pruning {' '.join(sys.argv[1:])}\n")
    table.head("demo model", "CPU s to make", "perplexity", "log perplexity that is back")
    losses: list[float] = []

    def row(name: str, path: Path, usage: Usage | None) -> None:
        losses.append(math.log(perplexity(open_source(str(path), SourceOptions()).graph(), held_out, _silent)))
        back = f"{(losses[1] - losses[2]) / (losses[1] - losses[0]):.0%}" if len(losses) > 2 else "-"
        table.row(name, "-" if usage is None else f"{usage.cpu_seconds:.0f}", f"{math.exp(losses[-1]):.1f}", back)

    row("whole", model, None)
    row("pruned", pruned, _exporter("prune", model, *pruning, *data, "--sequences", 5, "--out", pruned))
    row("distilled", trained, _exporter("distill", pruned, "--teacher", model, *data, *training, "--out", trained))
    print(f"\nin {trained}")


def sizes(arguments: argparse.Namespace) -> None:
    """Files of the recipe at full shape, beside what ``--dry-run`` says of them."""
    model = make_checkpoint(CACHE / "guard-1b", "guard-1b", fetch("llama3-tokenizer").parent)
    scratch = Path(tempfile.mkdtemp(dir=arguments.out))
    text = scratch / "calibration.txt"
    shutil.copyfile(ROOT / "exporter" / "data" / "calibration.txt", text)
    try:
        print(f"{machine()}; python -m benchmarks.pruning {' '.join(sys.argv[1:])}\n")
        recipe = ("prune-guard", model, "--data", text, "--sequences", 2, "--seq-len", 64, "--out", scratch / "guard")
        predicted = _predicted(recipe, scratch)
        print(f"{predicted['parameters']:,} parameters; {predicted['with_whole_head']:,} with the whole head\n")
        table.head("step", *Usage.COLUMNS)
        table.row("prune-guard", *_exporter(*recipe).cells())
        targets = [part for name in ("executorch", "gguf", "onnx") for part in ("--target", name)]
        checked = () if arguments.verify else ("--no-verify",)
        usage = _exporter("export", scratch / "guard", *targets, "--out", scratch / "files", "--jobs", 1, *checked)
        table.row("export", *usage.cells())
        manifest = json.loads((scratch / "files" / "manifest.json").read_text())
        found = {Path(f["path"]).suffix: f["bytes"] for artifact in manifest["artifacts"] for f in artifact["files"]}
        verdicts = {artifact["target"]: artifact["parity"]["verdict"] for artifact in manifest["artifacts"]}
        print(f"\nparity: {verdicts}; published .pte: {PUBLISHED_BYTES:,} bytes\n")
        table.head("file", "predicted bytes", "bytes", "difference")
        for file in predicted["files"]:
            real = found[suffix := Path(file["path"]).suffix]
            table.row(suffix, f"{file['nbytes']:,}", f"{real:,}", f"{file['nbytes'] / real - 1:+.3%}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _predicted(recipe: Sequence[object], scratch: Path) -> dict[str, object]:
    import subprocess

    command = [sys.executable, "cli.py", *map(str, recipe), "--dry-run", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for job in (depth, recover, sizes):
        command = commands.add_parser(job.__name__, help=job.__doc__)
        command.set_defaults(job=job)
        if job is not sizes:
            command.add_argument("--text", type=Path, required=True)
            command.add_argument("--drop", type=int, default=7, help="blocks to drop, of 30")
            command.add_argument("--seq-len", type=int, default=128, help="tokens of a sequence")
        if job is depth:
            command.add_argument("--sequences", type=int, default=4, help="sequences to choose on")
        else:
            command.add_argument("--out", type=Path, help="where folders go; default: a temporary folder")
        if job is recover:
            command.add_argument("--importance", choices=methods.METHODS, default="block-influence")
            command.add_argument("--steps", type=int, default=80)
            command.add_argument("--lessons", type=int, default=400, help="sequences; a fifth only measures")
            command.add_argument("--learning-rate", type=float, default=4e-4)
        if job is sizes:
            command.add_argument("--verify", action="store_true", help="prove parity as well")
    arguments = parser.parse_args()
    arguments.job(arguments)


if __name__ == "__main__":
    main()
