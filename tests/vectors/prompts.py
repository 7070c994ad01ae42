"""``prompts.json``: what chat templates, run as Jinja, make of conversations, beside the formats found in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from exporter.bundle.prompt_format import prompt_format, to_json
from tests.fixtures.templates import FORMATTED, tokenizer

NOW = datetime(2024, 7, 6, 15, 4, 5)
DATE_FORMATS = (
    "%d %b %Y", "%B %d, %Y", "%A %a", "%y-%m-%d", "%H:%M:%S", "%I %p", "%j", "100%%", "no date", "%d%d", "ends in %%",
)  # fmt: skip

CONVERSATIONS: dict[str, tuple[str | None, list[str]]] = {
    "one message": (None, ["Hi"]),
    "a system message": ("Answer briefly.", ["Hi"]),
    "three messages": (None, ["Hi", "Hello!", "What now?"]),
    "five messages after a system message": ("Be terse.", ["1", "2", "3", "4", "5"]),
    "messages of several lines": ("a\n\nb", ["c\n\nd", "e\r\nf", "g\th"]),
    "other scripts": (None, ["Grüße an 東京 🙂", "नमस्ते", "\U0001f468‍\U0001f469‍\U0001f467"]),
    "what looks like a template": ("{{date}}", ["{{ bos_token }}{% if %}", "{{date}}", "%d %b %Y"]),
    "what looks like special tokens": (None, ["<|eot_id|>", "<|im_end|>", "<s>"]),
    "what looks like a replacement in a regex": (None, ["$1 \\1 \\\\ $&", "\\n", "${x}"]),
    "empty messages": ("", ["", "", ""]),
    "white space around": ("  system ", ["\n\tuser \r\n", " ", "\v\flast\n\n"]),
    "white space of Unicode around": (None, ["\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000x\u3000"]),
    "control characters that are white space in Python": (None, ["\x1c\x1d\x1e\x1fx\x85"]),
    "what only looks like white space": (None, ["\u200bx\ufeff", "\u180ex\u2060", "\u200e"]),
}


def vectors() -> dict[str, Any]:
    formats, cases = {}, []
    for name, template in FORMATTED.items():
        chat = tokenizer(template)
        formats[name] = to_json(prompt_format(chat))
        for about, (system, turns) in CONVERSATIONS.items():
            messages = [] if system is None else [{"role": "system", "content": system}]
            messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
            prompt = chat.render_chat(messages, strftime_now=NOW.strftime)
            cases.append({"about": about, "format": name, "system": system, "turns": turns, "prompt": prompt})
    return {
        "now": NOW.isoformat(),
        "dates": [{"format": form, "text": NOW.strftime(form)} for form in DATE_FORMATS],
        "formats": formats,
        "prompts": cases,
    }
