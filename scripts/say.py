"""Ask a GGUF chat model one question in llama.cpp: ``python scripts/say.py FILE.gguf "What is the capital of France?"``

The prompt is the file's own chat template. The answer goes to stdout, the speed to stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exporter.errors import ExporterError
from exporter.targets.gguf.runtime import Generation, LlamaCpp
from exporter.tokenizer.chat import render


def ask(path: Path, question: str, n_predict: int) -> Generation:
    """The model's greedy answer.

    Raises:
        ExporterError: llama.cpp or the chat template refuses.
    """
    model = LlamaCpp(path)
    metadata = model.metadata()
    tokens = {f"{role}_token": metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    known = {name: int(token) for name, token in tokens.items() if token is not None}
    names = dict(zip(known, model.detokenize([[token] for token in known.values()]), strict=True))
    messages = [{"role": "user", "content": question}]
    prompt = render(metadata.get("tokenizer.chat_template"), messages, add_generation_prompt=True, **names)
    return model.generate(prompt, n_predict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a GGUF file, or the first shard of a split one")
    parser.add_argument("question")
    parser.add_argument("--n-predict", type=int, default=128, help="tokens to generate at most (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        answer = ask(arguments.file, arguments.question, arguments.n_predict)
    except ExporterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(answer.text.strip() + ("" if answer.stopped else " ..."))
    print(f"({len(answer.ids)} tokens, {answer.tokens_per_second:.0f} tokens/s)", file=sys.stderr)


if __name__ == "__main__":
    main()
