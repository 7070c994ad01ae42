"""Tokenizers: Meta's tiktoken file, Hugging Face's ``tokenizer.json`` and GGUF vocabularies as one description."""

from exporter.tokenizer.folder import load_tokenizer_folder
from exporter.tokenizer.from_gguf import from_gguf
from exporter.tokenizer.huggingface import read_huggingface
from exporter.tokenizer.meta import read_meta
from exporter.tokenizer.to_gguf import GGUFField, to_gguf, write_gguf_vocab
from exporter.tokenizer.to_huggingface import to_hf_json
from exporter.tokenizer.tokenizer import Tokenizer, TokenType

__all__ = [
    "GGUFField",
    "TokenType",
    "Tokenizer",
    "from_gguf",
    "load_tokenizer_folder",
    "read_huggingface",
    "read_meta",
    "to_gguf",
    "to_hf_json",
    "write_gguf_vocab",
]
