"""Hugging Face folders, written by transformers and judged by tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from exporter.errors import TokenizerError
from exporter.tokenizer import TokenType, load_tokenizer_folder, to_gguf, to_hf_json
from exporter.tokenizer.pretokenizers import LLAMA3
from tests.tokenizer.hostile import hostile_texts

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
PRE_TOKENIZERS = {
    "gpt-2": GPT2,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]),
    "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTE_LEVEL]),
    "smaug-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTE_LEVEL]),
}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def _train(name: str) -> Backend:
    backend = Backend(models.BPE(ignore_merges=name == "llama-bpe"))
    backend.pre_tokenizer = PRE_TOKENIZERS[name]
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(hostile_texts(), trainer)
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    return backend


def _save(backend: Backend, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smollm")
    _save(_train("smollm"), folder)
    return folder


@pytest.fixture
def edit(folder, tmp_path):
    """Load a copy of the folder after changing one of its files."""

    def load(name: str, change: Any):
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        path = tmp_path / name
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_tokenizer_folder(tmp_path)

    return load


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_the_pre_tokenizer_is_recognised_and_texts_get_the_same_ids(name, tmp_path):
    original = _train(name)
    original.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer_folder(tmp_path)
    assert tokenizer.pre == name
    for parse_special in (False, True):
        original.encode_special_tokens = not parse_special
        wrong = [
            text
            for text in hostile_texts()
            if tokenizer.encode(text, parse_special=parse_special)
            != original.encode(text, add_special_tokens=False).ids
        ]
        assert wrong == []


def test_the_other_files_name_the_special_tokens(folder):
    tokenizer = load_tokenizer_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.stop_ids == (0, 2)
    assert tokenizer.add_bos
    assert tokenizer.chat_template == TEMPLATE


def test_tokens_added_as_special_are_control_and_others_user_defined(folder):
    tokenizer = load_tokenizer_folder(folder)
    assert list(tokenizer.special_tokens) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tool = tokenizer.pieces.index("<tool>")
    assert tokenizer.token_types[tool] == TokenType.USER_DEFINED
    assert tool in tokenizer.encode("a <tool> b")


def test_every_stop_token_of_the_generation_config_counts(edit):
    tokenizer = edit("generation_config.json", lambda d: d.update(eos_token_id=[2, 7]))
    assert tokenizer.stop_ids == (0, 2, 7)
    assert tokenizer.eos_id == 2


def test_ids_in_config_json_fill_what_no_token_file_says(edit):
    tokenizer = edit("tokenizer_config.json", lambda d: d.pop("eos_token"))
    assert tokenizer.eos_id is None
    tokenizer = edit("config.json", lambda d: d.update(eos_token_id=2, vocab_size=640))
    assert tokenizer.eos_id == 2


def test_a_negative_id_means_none(edit):
    assert edit("config.json", lambda d: d.update(unk_token_id=-1)).unk_id is None


def test_a_bos_template_among_other_post_processors_counts(edit):
    """As in Llama 3's tokenizer.json."""

    def wrap(document):
        steps = [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}, document["post_processor"]]
        document["post_processor"] = {"type": "Sequence", "processors": steps}

    assert edit("tokenizer.json", wrap).add_bos


def test_a_template_inside_the_configuration_is_found_too(edit, tmp_path):
    edit("tokenizer_config.json", lambda d: d.update(chat_template=[{"name": "default", "template": "X"}]))
    (tmp_path / "chat_template.jinja").unlink()
    assert load_tokenizer_folder(tmp_path).chat_template == "X"


def test_the_configuration_decides_about_bos_where_it_says_so(edit):
    assert not edit("tokenizer_config.json", lambda d: d.update(add_bos_token=False)).add_bos


def test_merges_may_be_strings_or_pairs(folder, edit):
    def as_strings(document):
        document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]

    assert edit("tokenizer.json", as_strings) == load_tokenizer_folder(folder)


def test_ids_without_a_piece_become_unused_pieces(edit):
    tokenizer = edit("tokenizer.json", lambda d: d["added_tokens"][-1].update(id=700))
    assert tokenizer.vocab_size == 701
    assert tokenizer.pieces[699] == "[PAD699]"
    assert tokenizer.token_types[699] == TokenType.UNUSED


def test_a_written_tokenizer_json_reads_as_the_same_tokenizer(folder, tmp_path, llama3):
    for tokenizer in (load_tokenizer_folder(folder), llama3):
        (tmp_path / "tokenizer.json").write_text(json.dumps(to_hf_json(tokenizer)), encoding="utf-8")
        read = load_tokenizer_folder(tmp_path)
        same = ("kind", "pieces", "token_types", "merges", "pre")
        assert [getattr(read, name) for name in same] == [getattr(tokenizer, name) for name in same]


def test_a_gguf_of_the_folder_names_the_pre_tokenizer(folder):
    written = {field.key: field.value for field in to_gguf(load_tokenizer_folder(folder))}
    assert written["tokenizer.ggml.pre"] == "smollm"
    assert written["tokenizer.chat_template"] == TEMPLATE


def _without_model(document):
    del document["model"]


def _other_regex(document):
    document["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    }


def _other_behavior(document):
    _other_regex(document)
    document["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_model, "malformed"),
        (_other_regex, "none that llama.cpp has a name for"),
        (_other_behavior, "splits words in a way"),
        (lambda d: d["model"].update(type="Unigram"), "of a kind"),
        (lambda d: d["model"].update(merges=[3]), "malformed"),
        (lambda d: d["model"].update(ignore_merges=True), "none that llama.cpp has a name for"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "changes text"),
        (lambda d: d.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "a space before"),
        (lambda d: d.update(pre_tokenizer={"type": "Punctuation", "then": "ByteLevel"}), "do not use"),
    ],
)
def test_a_tokenizer_that_would_be_silently_wrong_is_refused(edit, change, message):
    with pytest.raises(TokenizerError, match=message) as caught:
        edit("tokenizer.json", change)
    assert caught.value.expected and caught.value.found


def test_the_unknown_regex_is_shown(edit):
    with pytest.raises(TokenizerError) as caught:
        edit("tokenizer.json", _other_regex)
    assert r"\w+" in str(caught.value.found)
    assert "llama-bpe" in str(caught.value.expected)
    assert caught.value.hint


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer_folder(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match="has no tokenizer") as caught:
        load_tokenizer_folder(tmp_path)
    assert "config.json" in str(caught.value.found)
