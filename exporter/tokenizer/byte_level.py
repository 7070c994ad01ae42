"""The byte-level alphabet: every byte as one printable character.

Source: GPT-2's ``bytes_to_unicode`` (openai/gpt-2 ``src/encoder.py``); Hugging Face's ``ByteLevel`` and GGUF spell
their pieces in it. Printable Latin-1 bytes stand for themselves; the others become U+0100, U+0101, ... in byte order.
"""

from __future__ import annotations

PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def _alphabet() -> tuple[str, ...]:
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    stand_ins = {byte: 0x100 + index for index, byte in enumerate(others)}
    return tuple(chr(stand_ins.get(byte, byte)) for byte in range(256))


ALPHABET = _alphabet()
"""``ALPHABET[byte]`` is the character that stands for the byte."""

_ENCODE = dict(enumerate(ALPHABET))
_DECODE = {ord(char): byte for byte, char in enumerate(ALPHABET)}


def to_piece(data: bytes) -> str:
    """Spell bytes in the alphabet; one character per byte."""
    return data.decode("latin-1").translate(_ENCODE)


def to_bytes(piece: str) -> bytes:
    """The inverse of :func:`to_piece`.

    Raises:
        UnicodeEncodeError: ``piece`` has a character that is not in the alphabet.
    """
    return piece.translate(_DECODE).encode("latin-1")
